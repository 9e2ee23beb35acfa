//! Secrets: files that only we may read, and comparing without telling.
//!
//! Knows modes, first starts and constant time. Does not know what a secret
//! opens.

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
use crate::edge::driver::config::Read as ReadFile;

/// The name of the generated key of tokens, and of the credential.
pub(in crate::edge) const KEY: &str = "jwt.key";

/// The name of the generated secret, and of the credential, for HTTP callers.
const BROADCAST: &str = "broadcast.secret";

/// Shortest secret of an HTTP caller: 128 bits, were they random.
const SHORTEST: usize = 16;

/// No secret of an HTTP caller is longer: the head of a request would not hold it.
const LONGEST_SECRET: u64 = 16 << 10;

/// No file of keys is longer: a JWK set has some 4 KiB for each key with its certificates.
pub(in crate::edge) const LONGEST_KEYS: u64 = 256 << 10;

/// What must not be printed.
pub struct Secret(Vec<u8>);

impl Secret {
    /// The bytes themselves, for whoever computes with them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Who else may be able to open a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::edge) enum Exposure {
    /// Only its owner; where that is root, a group may read it, for root alone has
    /// given it to one. (What PostgreSQL asks of its key.)
    Owner,
    /// Anybody may read it, only its owner may write it: a public key.
    Readable,
    /// Whoever systemd says: it guards the directory of its credentials.
    Credential,
}

/// Reads a file of at most so many bytes whole, without one newline at its end.
pub(in crate::edge) fn read(path: &Path, exposure: Exposure, longest: u64) -> Result<Secret, Problem> {
    let purpose = if exposure == Exposure::Readable { Purpose::Readable } else { Purpose::Secret };
    let failed = |error: io::Error| {
        Problem::in_file(path, format!("cannot be read: {}", explained(&error, path, purpose)))
    };
    prepare_digests().map_err(|error| Problem::in_file(path, format!("no random numbers: {error}")))?;
    // A pipe in the place of a file must not keep us waiting.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(failed)?;
    // Asked of what was opened, not of what has the name by now.
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(Problem::in_file(path, "is not a file"));
    }
    let mode = found.mode() & 0o777;
    let own = rustix::process::geteuid().as_raw();
    let excess = match exposure {
        Exposure::Owner if found.uid() != 0 => mode & 0o077,
        // Root may have meant a group.
        Exposure::Owner => mode & 0o037,
        Exposure::Readable => mode & 0o022,
        Exposure::Credential => 0,
    };
    if excess != 0 {
        let (owner, cure) = match exposure {
            Exposure::Readable => (String::new(), format!("`chmod 0644 {}`", quoted(path))),
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
    // What `echo` and editors add.
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

/// The file that is used without a configured one, if it is there, and how far it may
/// be open: a credential of systemd, else one in the state directory.
pub(in crate::edge) fn unconfigured(
    name: &str,
    auth: &AuthConfig,
    state: &Path,
) -> Option<(PathBuf, Exposure)> {
    let credential = auth.credentials.as_ref().map(|directory| directory.join(name));
    let credential = credential.filter(|path| path.exists()).map(|path| (path, Exposure::Credential));
    credential.or_else(|| {
        let path = state.join(name);
        // A link that leads nowhere is there: it should be complained about, not
        // replaced.
        path.symlink_metadata().is_ok().then_some((path, Exposure::Owner))
    })
}

/// The names of what nobody has configured and what is not there yet.
pub fn missing(auth: &AuthConfig, state: &Path) -> Vec<&'static str> {
    let all = [(KEY, !auth.keys.is_empty()), (BROADCAST, !auth.broadcast_secrets.is_empty())];
    let missing = all
        .into_iter()
        .filter(|(name, is_configured)| !is_configured && unconfigured(name, auth, state).is_none());
    missing.map(|(name, _)| name).collect()
}

/// Makes what is missing, as the first start does.
///
/// # Errors
/// The file that cannot be made, and why.
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

/// Makes a file with 32 random bytes in hexadecimal. It appears whole or not
/// at all, and never in the place of another.
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
        // Somebody else started at the same time; theirs is as good.
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
/// Only keyed digests are held: their length says nothing, and memory that leaks
/// holds nothing that could be presented.
pub struct Secrets {
    /// Each with the file that it came from.
    digests: Vec<(PathBuf, String)>,
}

/// The key of all digests that this process makes.
static DIGESTS: OnceLock<EncodingKey> = OnceLock::new();

/// Makes sure that there is one. Two that begin at the same time end with the same.
fn prepare_digests() -> io::Result<()> {
    if DIGESTS.get().is_none() {
        let _ = DIGESTS.set(EncodingKey::from_secret(&random::<32>()?));
    }
    Ok(())
}

/// HMAC-SHA256; 43 characters for whatever goes in.
pub(in crate::edge) fn digest(secret: &[u8]) -> Option<String> {
    crypto::sign(secret, DIGESTS.get()?, Algorithm::HS256)
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.digests.len())
    }
}

impl Secrets {
    /// Reads all that are configured, else systemd's credential, else the one in
    /// the state directory; none, if nothing is there.
    ///
    /// # Errors
    /// All files that cannot be used, each by its name.
    pub fn open(auth: &AuthConfig, state: &Path) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut files: Vec<_> =
            auth.broadcast_secrets.iter().map(|path| (path.clone(), Exposure::of(path, auth))).collect();
        if files.is_empty() {
            files.extend(unconfigured(BROADCAST, auth, state));
        }
        let mut secrets = Self { digests: Vec::new() };
        for (path, exposure) in files {
            match read(&path, exposure, LONGEST_SECRET).and_then(|secret| presentable(&path, secret)) {
                Ok(secret) => secrets.digests.extend(digest(secret.bytes()).map(|digest| (path, digest))),
                Err(problem) => problems.push(problem),
            }
        }
        ConfigError::unless_empty(problems)?;
        Ok(secrets)
    }

    /// Whether `presented` is one of them. Takes as long whichever it is, and
    /// whatever part of it is right.
    pub fn matches(&self, presented: &str) -> bool {
        let Some(presented) = digest(presented.as_bytes()) else { return false };
        self.digests.iter().fold(false, |found, (_, digest)| {
            found | constant_time_eq(digest.as_bytes(), presented.as_bytes())
        })
    }

    /// Where they came from, and a digest of each.
    pub(in crate::edge) fn files(&self) -> impl Iterator<Item = ReadFile<'_>> {
        self.digests.iter().map(|(file, digest)| (file.as_path(), digest.as_str()))
    }
}

impl Exposure {
    /// How far a configured secret may be open.
    pub(in crate::edge) fn of(path: &Path, auth: &AuthConfig) -> Self {
        let credential = auth.credentials.as_ref().is_some_and(|directory| path.starts_with(directory));
        if credential { Self::Credential } else { Self::Owner }
    }
}

/// Whether a header could carry the secret, and guessing it would take long.
fn presentable(path: &Path, secret: Secret) -> Result<Secret, Problem> {
    if secret.bytes().len() < SHORTEST {
        return Err(Problem::in_file(path, format!("is shorter than {SHORTEST} bytes")));
    }
    if !secret.bytes().iter().all(u8::is_ascii_graphic) {
        return Err(Problem::in_file(path, "holds more than one line, or what no header can carry"));
    }
    Ok(secret)
}
