//! Two nodes on one network find each other and meet; and nothing goes anywhere else.
//!
//! The network is made of namespaces, in which this test starts itself again, once for each node.
//! Where the system allows no namespaces (some containers), there is nothing to test with.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use lavant_node::link::{
    Discovery, Frame, LinkConfig, LinkError, LinkKind, Links, Sighting, Urgency,
};
use lavant_proto::ids::SigningKey;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
const ROLE: &str = "LAVANT_TEST_ROLE";

/// A bridge and two hosts on it. A route leads everywhere else, by a router that is not there:
/// whoever takes it leaves a trace in the table of neighbours.
const NETWORK: &str = r#"
set -e
mount -t tmpfs none /run
ip link add br0 type bridge
ip link set br0 up
n=0
for host in one other; do
    n=$((n + 1))
    ip netns add $host
    ip link add v$host type veth peer name s$host
    ip link set v$host netns $host
    ip link set s$host master br0 up
    ip -n $host link set lo up
    ip -n $host addr add 10.55.0.$n/24 dev v$host
    ip -n $host link set v$host up
    ip -n $host route add default via 10.55.0.254
done
run() {
    ip netns exec $1 env LAVANT_TEST_ROLE=$1 "$TEST" --exact two_nodes_find_each_other --nocapture
}
run one &
run other
wait $!
for host in one other; do
    test -z "$(ip -n $host neigh show to 10.55.0.254)"
done
"#;

/// Whether a network of our own can be made here.
fn can_make_networks() -> bool {
    let script = "mount -t tmpfs none /run && ip netns add x && ip netns exec x true";
    let tried = in_new_namespaces(script).output();
    tried.is_ok_and(|output| output.status.success())
}

fn in_new_namespaces(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--mount"]);
    command.args(["sh", "-c", script]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_find_each_other() {
    match std::env::var(ROLE).as_deref() {
        Ok("one") => timeout(PATIENCE, be_found()).await.unwrap(),
        Ok(_) => timeout(PATIENCE, find()).await.unwrap(),
        Err(_) if can_make_networks() => {
            let mut network = in_new_namespaces(NETWORK);
            network.env("TEST", std::env::current_exe().unwrap());
            let output = tokio::task::spawn_blocking(move || network.output());
            let output = output.await.unwrap().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{output:?} {text}");
        }
        Err(_) => {}
    }
}

async fn node(seed: u8, choice: Option<LinkKind>) -> (Links, Discovery) {
    let config = LinkConfig {
        choice,
        ..LinkConfig::new(SigningKey::from_seed(&[seed; 32]))
    };
    let links = Links::bind(config).await.unwrap();
    let discovery = Discovery::start(&links).await.unwrap();
    (links, discovery)
}

/// Announces itself though it has no QUIC, until the one that found it says goodbye.
async fn be_found() {
    let (links, _discovery) = node(1, Some(LinkKind::Tcp)).await;
    let link = links.accept().await.unwrap();
    let (_keep, mut receiver) = link.split();
    let mut got = Vec::new();
    let error = loop {
        if let Err(error) = receiver.receive(&mut got).await {
            break error;
        }
    };
    assert_eq!(got, [Frame::Control(Bytes::from("found"))]);
    assert_eq!(error, LinkError::Closed("goodbye".to_owned()));
    links.close().await;
}

async fn find() {
    let (links, mut discovery) = node(2, None).await;
    let one = SigningKey::from_seed(&[1; 32]).publisher();
    let Some(Sighting::Found { key, addresses }) = discovery.next().await else {
        panic!("the other node is the first to be seen")
    };
    assert_eq!(key, one);
    assert!(
        addresses
            .iter()
            .all(|at| at.ip().to_string() == "10.55.0.1")
    );
    let link = links.dial_key(one, &addresses).await.unwrap();
    assert_eq!(link.kind(), LinkKind::Tcp);
    let (mut sender, _keep) = link.split();
    let mut batch = vec![Frame::Control(Bytes::from("found"))];
    sender.send(&mut batch, Urgency::Bulk).await.unwrap();
    sender.close("goodbye").await;
    loop {
        if discovery.next().await.unwrap() == (Sighting::Lost { key: one }) {
            break;
        }
    }
    links.close().await;
}
