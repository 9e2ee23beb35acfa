//! Secret files: their modes, their generation at the first start, and comparison in constant
//! time.

use std::fmt;
use std::fs;
use std::fs::File;
use std::io;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use constant_time_eq::constant_time_eq;
use jsonwebtoken::{Algorithm, EncodingKey};
use rustix::fs::OFlags;
use rustix::rand::{GetRandomFlags, getrandom};

use super::crypto;
use crate::config::file_owner::{Purpose, User, cure_of_open_secret, explained};
use crate::config::shell_quoting::quoted;
use crate::config::{AuthConfig, ConfigError, Problem};

/// The name of the generated key of tokens, and of the credential.
pub(super) const KEY: &str = "jwt.key";

/// The name of the generated secret, and of the credential, for HTTP callers.
const BROADCAST: &str = "broadcast.secret";

/// Shortest secret of an HTTP caller: 128 bits, were they random.
const SHORTEST: usize = 16;

/// No secret of an HTTP caller is longer: the head of a request would not hold it.
const LONGEST_SECRET: u64 = 16 << 10;

/// No file of keys is longer: a JWK set has some 4 KiB for each key with its certificates.
pub(super) const LONGEST_KEYS: u64 = 256 << 10;

/// Bytes that must not be printed.
pub struct Secret(Vec<u8>);

impl Secret {
    /// The bytes themselves, for computing with them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The accounts that may have access to a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileExposure {
    /// Only its owner; where that is root, a group may read it, because root alone can have
    /// given it to one. (PostgreSQL has the same rule for its key.)
    Owner,
    /// Every user may read it, only its owner may write it: a public key.
    Readable,
    /// Those that systemd chooses: it guards the directory of its credentials.
    Credential,
}

/// A file that was read, with a digest of its content: whether a reload has changed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::edge) struct ReadFile {
    path: PathBuf,
    digest: String,
}

impl ReadFile {
    pub(super) fn new(path: PathBuf, digest: String) -> Self {
        Self { path, digest }
    }

    pub(in crate::edge) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `earlier` is the same file with other content.
    pub(in crate::edge) fn is_change_of(&self, earlier: &Self) -> bool {
        self.path == earlier.path && self.digest != earlier.digest
    }
}

/// Reads a file of at most so many bytes whole, without one newline at its end.
pub(super) fn read(path: &Path, exposure: FileExposure, longest: u64) -> Result<Secret, Problem> {
    let purpose = if exposure == FileExposure::Readable { Purpose::Readable } else { Purpose::Secret };
    let failed = |error: io::Error| {
        Problem::in_file(path, format!("cannot be read: {}", explained(&error, path, purpose)))
    };
    prepare_digests().map_err(|error| Problem::in_file(path, format!("no random numbers: {error}")))?;
    // A pipe in the place of a file must not keep us waiting.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(failed)?;
    // Of the open file, not of the one that has the name by now.
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(Problem::in_file(path, "is not a file"));
    }
    let mode = found.mode() & 0o777;
    let own = rustix::process::geteuid().as_raw();
    let excess = match exposure {
        FileExposure::Owner if found.uid() != 0 => mode & 0o077,
        // Root may have meant a group.
        FileExposure::Owner => mode & 0o037,
        FileExposure::Readable => mode & 0o022,
        FileExposure::Credential => 0,
    };
    if excess != 0 {
        let (owner, cure) = match exposure {
            FileExposure::Readable => (String::new(), format!("`chmod 0644 {}`", quoted(path))),
            _ if found.uid() == own => (String::new(), cure_of_open_secret(path, &found, own)),
            _ => {
                let owner =
                    format!("belongs to {}, and this process runs as {}; it ", User(found.uid()), User(own));
                (owner, cure_of_open_secret(path, &found, own))
            }
        };
        let message = format!("{owner}has mode {mode:04o}, which lets others in; {cure}");
        return Err(Problem::in_file(path, message));
    }
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > longest {
        return Err(Problem::in_file(path, format!("is larger than {longest} bytes")));
    }
    // `echo` and editors add it.
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    if bytes.is_empty() {
        return Err(Problem::in_file(path, "is empty"));
    }
    Ok(Secret(bytes))
}

/// The file that is used without a configured one, if it exists, and its exposure: a
/// credential of systemd, else one in the state directory.
pub(super) fn unconfigured(name: &str, auth: &AuthConfig, state: &Path) -> Option<(PathBuf, FileExposure)> {
    let credential = auth.credentials.as_ref().map(|directory| directory.join(name));
    let credential = credential.filter(|path| path.exists()).map(|path| (path, FileExposure::Credential));
    credential.or_else(|| {
        let path = state.join(name);
        // A dangling link counts: it is to be reported, not replaced.
        path.symlink_metadata().is_ok().then_some((path, FileExposure::Owner))
    })
}

/// The names of the files that are neither configured nor present.
pub fn missing(auth: &AuthConfig, state: &Path) -> Vec<&'static str> {
    let all = [(KEY, !auth.keys.is_empty()), (BROADCAST, !auth.broadcast_secrets.is_empty())];
    let missing = all
        .into_iter()
        .filter(|(name, is_configured)| !is_configured && unconfigured(name, auth, state).is_none());
    missing.map(|(name, _)| name).collect()
}

/// Generates the missing files, as the first start does.
///
/// # Errors
/// The file that cannot be generated, and why.
pub fn generate_missing(auth: &AuthConfig, state: &Path) -> Result<(), Problem> {
    for name in missing(auth, state) {
        let path = state.join(name);
        generate(&path).map_err(|error| {
            let why = explained(&error, state, Purpose::State);
            Problem::in_file(&path, format!("cannot be created: {why}"))
        })?;
    }
    Ok(())
}

/// Generates a file with 32 random bytes in hexadecimal. It appears whole or not at all, and
/// never replaces another.
fn generate(path: &Path) -> io::Result<()> {
    let secret = random_hex::<32>()?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", random_hex::<8>()?));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file
        .write_all(format!("{secret}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&draft, path));
    fs::remove_file(&draft)?;
    match written {
        // Another process started at the same time; its file is as good.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all()),
    }
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // Waits until the kernel has gathered enough; up to 256 bytes come whole.
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

fn random_hex<const N: usize>() -> io::Result<String> {
    Ok(random::<N>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The secrets of HTTP callers, several of which may be valid at once.
///
/// Only keyed digests are held: their length discloses nothing, and leaked memory holds nothing
/// that could be presented.
pub struct Secrets {
    /// A digest of each, with the file that it came from.
    files: Vec<ReadFile>,
}

/// The key of all digests that this process makes.
static DIGESTS: OnceLock<EncodingKey> = OnceLock::new();

/// Makes sure that there is one. Two threads that begin at the same time end with the same.
fn prepare_digests() -> io::Result<()> {
    if DIGESTS.get().is_none() {
        let _ = DIGESTS.set(EncodingKey::from_secret(&random::<32>()?));
    }
    Ok(())
}

/// HMAC-SHA256, 43 characters for any input.
pub(super) fn digest(secret: &[u8]) -> Option<String> {
    crypto::sign(secret, DIGESTS.get()?, Algorithm::HS256)
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.files.len())
    }
}

impl Secrets {
    /// Reads all that are configured, else systemd's credential, else the one in the state
    /// directory; none, if neither exists.
    ///
    /// # Errors
    /// All files that cannot be used, each by its name.
    pub fn open(auth: &AuthConfig, state: &Path) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut files: Vec<_> =
            auth.broadcast_secrets.iter().map(|path| (path.clone(), FileExposure::of(path, auth))).collect();
        if files.is_empty() {
            files.extend(unconfigured(BROADCAST, auth, state));
        }
        let mut secrets = Self { files: Vec::new() };
        for (path, exposure) in files {
            match read(&path, exposure, LONGEST_SECRET).and_then(|secret| check_presentable(&path, secret)) {
                Ok(secret) => {
                    let digest = digest(secret.bytes());
                    secrets.files.extend(digest.map(|digest| ReadFile::new(path, digest)));
                }
                Err(problem) => problems.push(problem),
            }
        }
        ConfigError::unless_empty(problems)?;
        Ok(secrets)
    }

    /// Whether `presented` is one of them, in the same time whichever it is, and whatever part
    /// of it is right.
    pub fn matches(&self, presented: &str) -> bool {
        let Some(presented) = digest(presented.as_bytes()) else { return false };
        self.files
            .iter()
            .fold(false, |found, file| found | constant_time_eq(file.digest.as_bytes(), presented.as_bytes()))
    }

    /// The files that they came from.
    pub(in crate::edge) fn files(&self) -> &[ReadFile] {
        &self.files
    }
}

impl FileExposure {
    /// The exposure that a configured secret may have.
    pub(super) fn of(path: &Path, auth: &AuthConfig) -> Self {
        let credential = auth.credentials.as_ref().is_some_and(|directory| path.starts_with(directory));
        if credential { Self::Credential } else { Self::Owner }
    }
}

/// Checks that a header can carry the secret, and that guessing it would take long.
fn check_presentable(path: &Path, secret: Secret) -> Result<Secret, Problem> {
    if secret.bytes().len() < SHORTEST {
        return Err(Problem::in_file(path, format!("is shorter than {SHORTEST} bytes")));
    }
    if !secret.bytes().iter().all(u8::is_ascii_graphic) {
        return Err(Problem::in_file(path, "holds more than one line, or what no header can carry"));
    }
    Ok(secret)
}
