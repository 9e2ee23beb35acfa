//! What was handed over to a process that does not go on with it: it is written to the
//! disk, as at a clean stop, and the next start finds it there.
//!
//! Knows where it belongs. Does not know why nobody goes on with it. No configuration
//! counts: there may be none that can be read.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{SAVING, lock};
use crate::edge::clock;
use crate::edge::handover::UnusedState;
use crate::edge::store;
use crate::edge::store::checkpoint;
use crate::edge::store::{Engine, Store, StoreContext};
use crate::hub::{Effects, Hub, Input, Settings, StoreEvent};

/// Writes a state to the directory that it came from, which is locked for that;
/// `options` count if they are for that directory, and `kept` is a lock that this
/// process has already.
pub(super) fn save(state: UnusedState, options: Option<store::Options>, kept: Option<&File>) {
    match write(state, options, kept) {
        Ok(None) => {}
        Ok(Some(directory)) => log::info!("what was handed over is in {} now", directory.display()),
        Err(error) => log::error!("what was handed over is lost, but for what the disk had: {error}"),
    }
}

/// Where it is then; nowhere, if it was never to be on a disk.
fn write(
    state: UnusedState,
    options: Option<store::Options>,
    kept: Option<&File>,
) -> Result<Option<PathBuf>, Box<dyn Error>> {
    let UnusedState { hub, store } = state;
    let store = store?;
    let (Some(place), Some(engine)) = (Store::place(&store)?, Engine::built_in()) else { return Ok(None) };
    let directory = place.parent().unwrap_or(&place).to_owned();
    let lock = lock(&directory, kept)?;
    let options = options.filter(|options| options.directory == place);
    let options = options.unwrap_or_else(|| any_options(engine, &place));
    let store = Store::import(Some(options), clock::now(), &store)?;
    // Without a hub the messages are there all the same.
    let hub = hub.map_err(Box::<dyn Error>::from).and_then(|hub| Ok(Hub::import_to_leave(&hub)?));
    let (is_known, hub) = match hub {
        Ok(hub) => (true, hub),
        Err(error) => {
            log::error!("channels begin anew: {error}");
            (false, Hub::new(Settings::default(), clock::random()))
        }
    };
    let (store, hub) = write_out(store, hub);
    if store.owed() > 0 {
        let why = store.trouble().unwrap_or("the disk is too slow");
        log::error!("{} messages are lost with this process: {why}", store.owed());
    }
    if let (true, Some(elapsed)) = (is_known, store.elapsed()) {
        checkpoint::write(&directory, elapsed.stamp(clock::now()), &hub.remains())?;
    }
    drop(lock);
    Ok(Some(directory))
}

/// How a disk is used whose configuration is not known: everything is written that is
/// owed, whatever it takes.
fn any_options(engine: Engine, place: &Path) -> store::Options {
    store::Options {
        engine,
        program: "/proc/self/exe".into(),
        directory: place.to_owned(),
        write_delay: Duration::ZERO,
        bytes: u64::MAX,
        flash_budget: None,
        memory: usize::MAX,
    }
}

/// Has everything written that is to outlive a daemon, and the hub told of that alone.
fn write_out(mut store: Store, mut hub: Hub) -> (Store, Hub) {
    /// The store's deadlines are looked at so often.
    const LOOK_AGAIN: Duration = Duration::from_millis(100);
    let deadline = clock::now().moment + SAVING;
    let (mut facts, mut unheard) = (VecDeque::new(), Effects::default());
    store.finish();
    loop {
        let now = clock::now();
        for act in [Store::ready, Store::tick] {
            act(&mut store, &mut StoreContext { now, hub: &hub, epoll: None, inputs: &mut facts });
        }
        // All else would be acted on, such as that the disk takes less than there is.
        let is_stored = |fact: &Input| matches!(fact, Input::Store(StoreEvent::Stored { .. }));
        for fact in facts.drain(..).filter(is_stored) {
            hub.handle(now, fact, &mut unheard);
            unheard.clear();
        }
        if store.is_finished() || deadline <= now.moment {
            return (store, hub);
        }
        store.wait(LOOK_AGAIN);
    }
}
