//! `lavant key`: secret keys of nodes and publishers, and tokens of groups.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use lavant_node::config::DEFAULT_STORE;
use lavant_node::identity;
use lavant_node::store::Layout;

use crate::output;

/// Arguments of `lavant key`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lavant key show                          the node's public key\n  \
    lavant key export backup.key             a copy of the secret key, mode 0600\n  \
    lavant key import backup.key --store new make it the key of another node\n  \
    lavant key new publisher.key             a key to publish as (lavant ingest --publish-as)\n  \
    lavant key token > group                 a token for all nodes of a group (--relay-token)")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Folder of the node's store
    #[arg(
        long,
        env = "LAVANT_STORE",
        value_name = "FOLDER",
        default_value = DEFAULT_STORE,
        global = true
    )]
    store: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Show the public key of the node, or of a key file
    Show {
        /// A key file
        file: Option<PathBuf>,
    },
    /// Make a key file for publishing
    New {
        /// The file to make
        file: PathBuf,
    },
    /// Copy the node's secret key to a file that only you can read
    Export {
        /// The file to make
        file: PathBuf,
    },
    /// Take a key file as the key of a node that has none yet
    Import {
        /// The key file
        file: PathBuf,
    },
    /// Print a new token for the nodes of a group
    #[command(after_help = "Examples:\n  \
        lavant key token > group\n  \
        lavant serve --relay-token \"$(cat group)\"     on every node of the group\n  \
        lavant key token --json\n\n\
        It holds 140 random bits, so that nobody guesses it. Nothing is stored: keep it,\n\
        and give it to the other nodes on a way that nobody else reads.")]
    Token,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let own = Layout::new(&args.store).node_key();
    let (key, done) = match args.command {
        Command::Show { file } => (identity::read_key(&file.unwrap_or(own))?, None),
        Command::New { file } => {
            let key = identity::new_key()?;
            identity::write_key(&file, &key)?;
            (key, Some(format!("a new key is in {}", file.display())))
        }
        Command::Export { file } => {
            let key = identity::read_key(&own)?;
            identity::write_key(&file, &key)?;
            (
                key,
                Some(format!(
                    "the node's secret key is in {}; keep it safe",
                    file.display()
                )),
            )
        }
        Command::Import { file } => {
            // Also refused when the file is made; here the sentence can say why.
            if own.exists() {
                bail!(
                    "{} has a key already, and what it signed stays signed by that; give a node \
                     without one by --store, or move {} away",
                    args.store.display(),
                    own.display()
                );
            }
            // Read before the folder is made, so that a wrong file leaves nothing behind.
            let key = identity::read_key(&file)?;
            identity::private_folder(&args.store)?;
            identity::write_key(&own, &key)?;
            (
                key,
                Some(format!("{} now has this key", args.store.display())),
            )
        }
        Command::Token => return token(args.json),
    };
    let public = key.publisher().to_string();
    if args.json {
        output::json(&serde_json::json!({ "publisher": public }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(public);
    if let Some(done) = done {
        output::note(done);
    }
    Ok(ExitCode::SUCCESS)
}

fn token(json: bool) -> anyhow::Result<ExitCode> {
    let token = lavant_node::config::new_token()?;
    if json {
        output::json(&serde_json::json!({ "token": token }))?;
    } else {
        output::line(token);
    }
    Ok(ExitCode::SUCCESS)
}
