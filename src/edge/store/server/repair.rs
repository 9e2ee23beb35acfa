//! Repair of a generation that cannot be opened or read: one step each time a process
//! finds that the one before it failed.
//!
//! The steps are: try again; remove what can be made anew, of a copy; set it aside and go on
//! without it. Nothing is tried for ever, and what was kept is never deleted. How often it was
//! tried is in a small file beside the generation.
//!
//! What the disk does not give back is another matter: where that is some of a
//! generation, and is so again and again, it goes on as a copy of the rest. Where it is
//! much, the disk is sick, and may recover.
//!
//! Only damage leads to the next step: an error of the engine that says so, a panic, or a process
//! that ended again and again while it opened the generation. What ends a process
//! from without (a full memory, an impatient daemon, a power cut) is no sign of damage.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use serde::{Deserialize, Serialize};

use super::directory::StoreDirectory;
use super::error::{StoreError, StoreResult};
use super::free_space;
use super::free_space::FreeSpace;
use super::generation_files;
use super::generation_files::Salvaged;
use crate::edge::atomic_file;

/// The file beside a generation.
const TROUBLE: &str = "trouble";

/// So many attempts to open a generation that never ended are taken for damage:
/// more than a box that is killed at random, or short of memory, sees in a row.
const UNENDED: u32 = 20;

/// So often in a row the disk does not give something back until that is taken for a
/// bad sector: less often than a daemon that starts tries it.
const UNREAD: u32 = 4;

/// A generation goes on without so much of it, in hundredths.
const MOST_UNREAD: u64 = 25;

/// What is known of the attempts at a generation.
#[derive(Clone, Default, Serialize, Deserialize)]
struct RepairNote {
    /// Steps taken since it was last read from one end to the other.
    step: u32,
    /// What went wrong, if no step was taken for it yet.
    damage: Option<String>,
    /// Attempts to open it that have not ended, in this run of the machine.
    unended: u32,
    boot: String,
    /// How often in a row something of it could not be read.
    #[serde(default)]
    unread: u32,
    /// It is in the file.
    #[serde(skip)]
    is_there: bool,
}

/// What a panic is noted for: a panic ends the process, and its last word is this.
static UNDER_WAY: Mutex<Option<(PathBuf, RepairNote)>> = Mutex::new(None);

/// The place of the last note that was looked for, and was not there. No other process
/// writes it while this one has the store.
static NOTHING_NOTED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// How much of a generation was read and is as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verified {
    /// It was written to, which verifies nothing.
    Nothing,
    Part,
    All,
}

/// Lets a panic of any thread leave a note, and end the process at once: the
/// engine's own threads would leave it waiting for them.
pub(super) fn record_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let under_way = UNDER_WAY.try_lock().ok().and_then(|mut under_way| under_way.take());
        if let Some((path, mut note)) = under_way {
            note.damage = Some(panic.to_string().replace('\n', " "));
            drop(note.write(&path));
        }
        before(panic);
        std::process::abort();
    }));
}

/// Takes the step that is due for every generation: what an administrator should know.
pub(super) fn repair_all(directory: &StoreDirectory, space: &FreeSpace) -> StoreResult<Vec<String>> {
    let there = directory.generations()?;
    let mut notes = Vec::new();
    for generation in directory.with(TROUBLE)? {
        let path = directory.beside(generation, TROUBLE);
        let mut note = RepairNote::read(&path);
        if !there.contains(&generation) {
            remove(&path)?;
        } else if note.unread >= UNREAD {
            notes.extend(replace_by_readable(directory, space, generation, note)?);
        } else if let Some(damage) = note.take_due_damage() {
            note.step += 1;
            notes.push(take_step(directory, space, generation, &note, &damage)?);
        }
    }
    Ok(notes)
}

fn take_step(
    directory: &StoreDirectory,
    space: &FreeSpace,
    generation: u32,
    note: &RepairNote,
    damage: &str,
) -> StoreResult<String> {
    let path = directory.beside(generation, TROUBLE);
    let (place, name) = (directory.place(generation), directory.place(generation).display().to_string());
    match note.step {
        1 => {
            note.write(&path)?;
            Ok(format!("{name} is tried again: {damage}"))
        }
        2 if copy_fits(directory, space, generation) => {
            // The engine writes over what it then cannot read.
            let copy = directory.path_aside(generation)?;
            generation_files::copy(&place, &copy).map_err(StoreError::file(&copy))?;
            generation_files::remove_what_can_be_made_anew(&place)?;
            note.write(&path)?;
            let copy = copy.display();
            Ok(format!(
                "{name} was copied to {copy} and is tried again without what can be made anew: {damage}"
            ))
        }
        _ => {
            let aside = directory.set_damaged_aside(generation)?;
            // Found without its generation it is removed.
            remove(&path)?;
            Ok(format!("{name} cannot be read and was set aside as {}: {damage}", aside.display()))
        }
    }
}

/// Replaces a generation by a copy of what can be read. None, where all of it can be read
/// now, or too little.
fn replace_by_readable(
    directory: &StoreDirectory,
    space: &FreeSpace,
    generation: u32,
    mut note: RepairNote,
) -> StoreResult<Option<String>> {
    let (path, step) = (directory.beside(generation, TROUBLE), note.step);
    let (place, name) = (directory.place(generation), directory.place(generation).display().to_string());
    note.unread = 0;
    // Noted before it begins: a bad disk may take longer than the daemon waits.
    note.step += 1;
    note.write(&path)?;
    if note.step > 2 || !copy_fits(directory, space, generation) {
        let aside = directory.set_aside(generation)?;
        remove(&path)?;
        return Ok(Some(format!("{name} cannot be read and was set aside as {}", aside.display())));
    }
    let copy = directory.path_unfinished(generation);
    let salvaged = generation_files::salvage(&place, &copy);
    if let Ok(Salvaged { bytes, unread }) = salvaged
        && (1..=bytes / 100 * MOST_UNREAD).contains(&unread)
    {
        let aside = directory.replace(generation)?;
        return Ok(Some(format!(
            "the disk does not give back {unread} bytes of {name}, which goes on without them and was set \
             aside as {}",
            aside.display()
        )));
    }
    note.step = step;
    note.write(&path)?;
    let removed = fs::remove_dir_all(&copy);
    salvaged.and(removed).map(|()| None).map_err(StoreError::file(&copy))
}

fn copy_fits(directory: &StoreDirectory, space: &FreeSpace, generation: u32) -> bool {
    let taken = free_space::taken(&directory.place(generation));
    taken.is_ok_and(|taken| space.free().is_ok_and(|free| free > taken))
}

/// Begins to open a generation.
pub(super) fn begin_opening(directory: &StoreDirectory, generation: u32) -> StoreResult {
    let path = directory.beside(generation, TROUBLE);
    let mut note = RepairNote::read(&path);
    note.unended += 1;
    note.boot = boot();
    note.write(&path)?;
    note.is_there = true;
    under_way(Some((path, note)));
    Ok(())
}

/// Begins to work with one that is open.
pub(super) fn begin(directory: &StoreDirectory, generation: u32) {
    let path = directory.beside(generation, TROUBLE);
    let is_clean = NOTHING_NOTED.lock().is_ok_and(|clean| clean.as_ref() == Some(&path));
    let note = if is_clean { RepairNote::none() } else { RepairNote::read(&path) };
    if !note.is_there
        && !is_clean
        && let Ok(mut clean) = NOTHING_NOTED.lock()
    {
        *clean = Some(path.clone());
    }
    under_way(Some((path, note)));
}

/// What was begun has succeeded. A note that cannot be settled stays, and counts
/// one attempt too many; what was done is done.
pub(super) fn end_successful(verified: Verified) {
    let Some((path, mut note)) = under_way(None) else { return };
    if verified != Verified::Nothing {
        note.unread = 0;
    }
    drop(match verified {
        Verified::Nothing if note.unended == 0 => Ok(()),
        Verified::All if !note.is_there => Ok(()),
        Verified::All => remove(&path),
        // What was damaged may be elsewhere in it: that it is whole is known only when all
        // of it was read.
        Verified::Part | Verified::Nothing => note.settle(&path),
    });
}

/// What was begun has failed. What goes wrong with the note is not the reason.
pub(super) fn end_failed(error: &StoreError) {
    let Some((path, mut note)) = under_way(None) else { return };
    match error {
        StoreError::Damaged(why) => note.damage = Some(why.clone()),
        StoreError::Unread(_) => note.unread += 1,
        StoreError::Hindered(_) => {}
    }
    drop(note.settle(&path));
}

/// What a panic is noted for from now on; what it was until now.
fn under_way(now: Option<(PathBuf, RepairNote)>) -> Option<(PathBuf, RepairNote)> {
    let mut under_way = UNDER_WAY.lock().ok()?;
    std::mem::replace(&mut under_way, now)
}

impl RepairNote {
    /// A note that cannot be read was being written when something ended: the
    /// next attempt writes it anew.
    fn read(path: &Path) -> Self {
        let text = fs::read(path).ok();
        let is_there = text.is_some();
        let read = text.and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        let mut note = read.unwrap_or_default();
        note.is_there = is_there;
        if note.boot != boot() {
            // The machine went down under it.
            note.unended = 0;
        }
        note
    }

    /// That of a generation of which nothing was noted.
    fn none() -> Self {
        Self { boot: boot(), ..Self::default() }
    }

    /// Not synced: it is for the next process on this machine, and a power cut is no damage.
    fn write(&self, path: &Path) -> StoreResult {
        if let Ok(mut clean) = NOTHING_NOTED.lock() {
            clean.take_if(|clean| clean == path);
        }
        let text = serde_json::to_vec(self).map_err(|error| StoreError::Hindered(error.to_string()))?;
        fs::write(path, text).map_err(StoreError::file(path))
    }

    /// Notes that the attempt has ended.
    fn settle(mut self, path: &Path) -> StoreResult {
        let opened = std::mem::take(&mut self.unended) > 0;
        match (&self.damage, self.step) {
            _ if self.unread > 0 => self.write(path),
            // Nothing was noted: nothing is removed.
            (None, 0) if !self.is_there => Ok(()),
            (None, 0) => remove(path),
            (None, _) if !opened => Ok(()),
            _ => self.write(path),
        }
    }

    /// The damage for which a step is due. It is forgotten with this.
    fn take_due_damage(&mut self) -> Option<String> {
        let unended =
            (self.unended >= UNENDED).then(|| format!("{UNENDED} attempts to open it have not ended"));
        let take_due_damage = self.damage.take().or(unended)?;
        self.unended = 0;
        Some(take_due_damage)
    }
}

fn remove(path: &Path) -> StoreResult {
    atomic_file::remove_if_there(path).map_err(StoreError::file(path))
}

/// The run of the machine; all are one where the kernel does not show it.
fn boot() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id");
    BOOT.get_or_init(|| read().map(|id| id.trim().to_owned()).unwrap_or_default()).clone()
}
