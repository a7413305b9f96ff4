//! Ctrl-C and SIGTERM.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

/// Waits for Ctrl-C or SIGTERM.
pub async fn stop() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        // A process that cannot listen for signals still gets their default, which ends it.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Sets `flag` at the first Ctrl-C or SIGTERM, for work that looks at it now and then.
pub fn set_on_stop(flag: &'static AtomicBool) -> std::io::Result<()> {
    // Of its own, on a thread of its own: the work that looks at the flag may block.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(stop());
            flag.store(true, Ordering::SeqCst);
        })?;
    Ok(())
}
