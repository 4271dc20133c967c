//! HTTP basic authentication (RFC 7617) against a file of users.
//!
//! Checking a password costs as much as its hash was made to cost, so that is done on a thread that may block ([`Job`]), and
//! pairs that were right are remembered for a while. What is remembered is a keyed hash of the pair, never the pair. An
//! unknown user costs what a known one costs. The `Authorization` field goes on to the backend, as it does in nginx; a
//! route that does not want that removes it with `request_headers`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use blake2::Blake2bMac512;
use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _};
use http::HeaderValue;
use parking_lot::Mutex;

use super::users::{Users, UsersError};
use crate::base::clock::Moment;
use crate::base::request::RequestView;
use crate::base::stamp::Stamp;
use crate::config::plan;
use crate::filter::BuildError;

/// How long a pair that was right is remembered: so long may a password that was taken out of the file still work on
/// another instance's file system; on this one a changed file forgets all at once.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How many pairs are remembered at most.
const MOST_REMEMBERED: usize = 4096;
/// How many passwords are hashed at once: who guesses passwords can keep so many threads busy, and so much memory.
const MOST_AT_ONCE: usize = 16;
/// The longest `Authorization` value that is looked at, in bytes.
const LONGEST_CREDENTIALS: usize = 4096;

/// The authentication of a route.
#[derive(Debug)]
pub struct Basic {
    path: PathBuf,
    challenge: HeaderValue,
    key: Key,
    known: ArcSwap<Known>,
    hashing: Arc<AtomicUsize>,
    stamp: Mutex<Option<Stamp>>,
}

/// The users of one version of the file and the pairs remembered of it: what a new file forgets, it forgets whole.
#[derive(Debug)]
struct Known {
    users: Users,
    remembered: Mutex<HashMap<[u8; 32], Moment>>,
}

/// The secret of the keyed hashes; new with each process.
#[derive(Clone)]
struct Key([u8; 64]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What can be said of a request's credentials at once.
#[derive(Debug)]
pub enum Check {
    /// They are good, or they are not.
    Known(bool),
    /// A hash must be computed: run the job on a thread that may block.
    MustHash(Job),
    /// A hash must be computed, but too many are under way.
    Busy,
}

/// A place among the hashes that are computed at once; given back when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(hashing: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(hashing.clone());
        (hashing.fetch_add(1, Ordering::Relaxed) < MOST_AT_ONCE).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A password to be checked. Until it has run or is dropped it holds one of the places for hashes under way.
pub struct Job {
    known: Arc<Known>,
    tag: [u8; 32],
    decoy: u64,
    name: String,
    password: Vec<u8>,
    now: Moment,
    _place: Place,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Basic {
    /// Reads the users.
    ///
    /// # Errors
    /// The file of users is wrong, the realm is no text, or the system has no random bytes.
    pub fn build(plan: &plan::AuthBasic) -> Result<Self, BuildError> {
        let stamp = Stamp::of(&plan.users).ok();
        let users = Users::read(&plan.users)?;
        Ok(Self {
            path: plan.users.clone(),
            challenge: challenge(&plan.realm)?,
            key: Key::random()?,
            known: ArcSwap::from_pointee(Known::new(users)),
            hashing: Arc::default(),
            stamp: Mutex::new(stamp),
        })
    }

    /// The value of `WWW-Authenticate` in a refusal.
    #[must_use]
    pub fn challenge(&self) -> &HeaderValue {
        &self.challenge
    }

    /// What can be said of `request` at once. A request without well-formed credentials is refused; no hash is spent on it.
    #[must_use]
    pub fn check(&self, request: &RequestView<'_>, now: Moment) -> Check {
        let Some((name, password)) = only_authorization(request).and_then(credentials) else {
            return Check::Known(false);
        };
        let known = self.known.load_full();
        let tag = self.key.tag(&name, &password);
        if known.remembers(&tag, now) {
            return Check::Known(true);
        }
        match Place::take(&self.hashing) {
            Some(place) => {
                Check::MustHash(Job { decoy: self.key.number(&name), known, tag, name, password, now, _place: place })
            }
            None => Check::Busy,
        }
    }

    /// Reads the file again where it has changed. A file that is wrong leaves the users as they were, and is told of once.
    /// Reads the file system: for a background service.
    ///
    /// # Errors
    /// The changed file cannot be used.
    pub fn reload_if_changed(&self) -> Result<Reload, UsersError> {
        let found = Stamp::of(&self.path).ok();
        if std::mem::replace(&mut *self.stamp.lock(), found) == found {
            return Ok(Reload::Unchanged);
        }
        let users = Users::read(&self.path)?;
        let count = users.len();
        self.known.store(Arc::new(Known::new(users)));
        Ok(Reload::Changed { users: count })
    }
}

/// What became of a look at the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// It is as it was.
    Unchanged,
    /// It was read again.
    Changed {
        /// How many users it has now.
        users: usize,
    },
}

impl Job {
    /// Whether the credentials are good; takes as long as the hash was made to take. A right pair is remembered.
    #[must_use]
    pub fn run(self) -> bool {
        let users = &self.known.users;
        let good = match users.hash(&self.name) {
            Some(hash) => hash.verify(&self.password),
            None => {
                // The outcome is never looked at: the work is done so that its time is spent.
                let _ = users.decoy(self.decoy).map(|hash| hash.verify(&self.password));
                false
            }
        };
        if good {
            self.known.remember(self.tag, self.now);
        }
        good
    }
}

impl Known {
    fn new(users: Users) -> Self {
        Self { users, remembered: Mutex::default() }
    }

    fn remembers(&self, tag: &[u8; 32], now: Moment) -> bool {
        self.remembered.lock().get(tag).is_some_and(|since| now.since(*since) < REMEMBERED)
    }

    fn remember(&self, tag: [u8; 32], now: Moment) {
        let mut remembered = self.remembered.lock();
        if remembered.len() >= MOST_REMEMBERED {
            remembered.retain(|_, since| now.since(*since) < REMEMBERED);
        }
        // Full of pairs that are all fresh: begin again. Each is hashed once more, no more than that.
        if remembered.len() >= MOST_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(tag, now);
    }
}

impl Key {
    fn random() -> Result<Self, BuildError> {
        use argon2::password_hash::rand_core::{OsRng, RngCore as _};
        let mut key = [0; 64];
        OsRng.try_fill_bytes(&mut key).map_err(|_| BuildError::NoRandomBytes)?;
        Ok(Self(key))
    }

    /// A hash of the pair that nobody without the key can make collide. The name's length keeps the two apart.
    fn tag(&self, name: &str, password: &[u8]) -> [u8; 32] {
        let length = u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes();
        let full = self.mac(&[&length, name.as_bytes(), password]);
        let mut tag = [0; 32];
        tag.copy_from_slice(&full[..32]);
        tag
    }

    fn number(&self, name: &str) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.mac(&[name.as_bytes()])[..8]);
        u64::from_be_bytes(first)
    }

    fn mac(&self, parts: &[&[u8]]) -> [u8; 64] {
        let mut mac = Blake2bMac512::new(&self.0.into());
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize_fixed().into()
    }
}

/// `Basic realm="...", charset="UTF-8"` (RFC 7617, 2.1).
fn challenge(realm: &str) -> Result<HeaderValue, BuildError> {
    let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
    let text = format!("Basic realm=\"{quoted}\", charset=\"UTF-8\"");
    HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| BuildError::ControlCharacter { field: "auth realm".to_owned() })
}

/// The request's `Authorization`; none where there are two, as the backend could read the other one.
fn only_authorization<'a>(request: &RequestView<'a>) -> Option<&'a [u8]> {
    let mut count = 0;
    request.fields.each("authorization", &mut |_| count += 1);
    request.fields.get("authorization").filter(|_| count == 1)
}

/// The name and password in an `Authorization` value. The name ends at the first colon (RFC 7617, 2).
fn credentials(value: &[u8]) -> Option<(String, Vec<u8>)> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= LONGEST_CREDENTIALS)?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let mut pair = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let password = pair.split_off(colon + 1);
    pair.truncate(colon);
    Some((String::from_utf8(pair).ok()?, password))
}

#[cfg(test)]
mod tests {
    use super::super::users::tests::bcrypt_of;
    use super::*;
    use crate::base::request::Scheme;
    use http::HeaderMap;
    use proptest::prelude::*;

    struct Site {
        directory: tempfile::TempDir,
        basic: Basic,
    }

    fn site(realm: &str, users: &[(&str, &str)]) -> Site {
        let directory = tempfile::tempdir().unwrap();
        write(&directory, users);
        let users = directory.path().join("users");
        Site { basic: Basic::build(&plan::AuthBasic { users, realm: realm.into() }).unwrap(), directory }
    }

    fn write(directory: &tempfile::TempDir, users: &[(&str, &str)]) {
        let text: String = users.iter().map(|(name, password)| format!("{name}:{}\n", bcrypt_of(password))).collect();
        std::fs::write(directory.path().join("users"), text).unwrap();
    }

    fn check(basic: &Basic, authorization: Option<&str>, now: Moment) -> Check {
        let mut fields = HeaderMap::new();
        if let Some(value) = authorization {
            fields.insert("authorization", value.parse().unwrap());
        }
        let (host, path) = ("h", "/");
        basic.check(
            &RequestView {
                method: "GET",
                scheme: Scheme::Https,
                host,
                path,
                query: None,
                client: None,
                fields: &fields,
            },
            now,
        )
    }

    fn pair(name: &str, password: &str) -> String {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}")))
    }

    /// Whether the credentials are good, and whether a hash was computed to know it.
    fn outcome(basic: &Basic, name: &str, password: &str, now: Moment) -> (bool, bool) {
        match check(basic, Some(&pair(name, password)), now) {
            Check::Known(good) => (good, false),
            Check::MustHash(job) => (job.run(), true),
            Check::Busy => panic!("too many hashes at once"),
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn a_right_pair_is_hashed_once_and_remembered_for_a_minute() {
        let site = site("r", &[("ann", "one:two")]);
        assert_eq!(outcome(&site.basic, "ann", "one:two", at(0)), (true, true));
        assert_eq!(outcome(&site.basic, "ann", "one:two", at(59)), (true, false));
        assert_eq!(outcome(&site.basic, "ann", "one:two", at(60)), (true, true));
    }

    #[test]
    fn a_wrong_pair_is_never_remembered_and_an_unknown_user_is_hashed_too() {
        let site = site("r", &[("ann", "one")]);
        for _ in 0..2 {
            assert_eq!(outcome(&site.basic, "ann", "two", at(0)), (false, true));
            assert_eq!(outcome(&site.basic, "eve", "one", at(0)), (false, true));
        }
        assert_eq!(outcome(&site.basic, "ann", "one", at(0)), (true, true));
        assert_eq!(outcome(&site.basic, "an", "none", at(0)), (false, true));
    }

    #[test]
    fn requests_without_credentials_cost_no_hash() {
        let site = site("r", &[("ann", "one")]);
        let long = pair("ann", &"x".repeat(LONGEST_CREDENTIALS));
        for value in
            [None, Some("Bearer abc"), Some("Basic"), Some("Basic !!"), Some("Basic YW5u"), Some(long.as_str())]
        {
            assert!(matches!(check(&site.basic, value, at(0)), Check::Known(false)), "{value:?}");
        }
        let other_case = pair("ann", "one").replace("Basic", "bASIC");
        assert!(matches!(check(&site.basic, Some(&other_case), at(0)), Check::MustHash(_)));
    }

    #[test]
    fn two_authorization_fields_are_refused() {
        let site = site("r", &[("ann", "one")]);
        let mut fields = HeaderMap::new();
        for name in ["ann", "bob"] {
            fields.append("authorization", pair(name, "one").parse().unwrap());
        }
        let (host, path, scheme) = ("h", "/", Scheme::Https);
        let request = RequestView { method: "GET", scheme, host, path, query: None, client: None, fields: &fields };
        assert!(matches!(site.basic.check(&request, at(0)), Check::Known(false)));
    }

    #[test]
    fn so_many_passwords_are_hashed_at_once_and_no_more() {
        let site = site("r", &[("ann", "one")]);
        let ask = |name| check(&site.basic, Some(&pair(name, "one")), at(0));
        let mut jobs: Vec<_> = (0..MOST_AT_ONCE).map(|_| ask("ann")).collect();
        assert!(jobs.iter().all(|check| matches!(check, Check::MustHash(_))));
        for _ in 0..3 {
            assert!(matches!(ask("ann"), Check::Busy));
        }
        let Some(Check::MustHash(job)) = jobs.pop() else { panic!("no job") };
        assert!(job.run());
        assert!(matches!(ask("ann"), Check::Known(true)), "a pair that is remembered needs no place");
        assert!(matches!(ask("bob"), Check::MustHash(_)), "the place of a job that ended is free");
    }

    #[test]
    fn a_changed_file_forgets_all_and_a_bad_one_changes_nothing() {
        let site = site("r", &[("ann", "one")]);
        assert_eq!(outcome(&site.basic, "ann", "one", at(0)), (true, true));
        assert_eq!(site.basic.reload_if_changed().unwrap(), Reload::Unchanged);

        write(&site.directory, &[("ann", "two"), ("bob", "x")]);
        assert_eq!(site.basic.reload_if_changed().unwrap(), Reload::Changed { users: 2 });
        assert_eq!(outcome(&site.basic, "ann", "one", at(0)), (false, true));
        assert_eq!(outcome(&site.basic, "ann", "two", at(0)), (true, true));

        std::fs::write(site.directory.path().join("users"), "broken").unwrap();
        assert!(site.basic.reload_if_changed().is_err());
        assert_eq!(site.basic.reload_if_changed().unwrap(), Reload::Unchanged);
        assert_eq!(outcome(&site.basic, "ann", "two", at(0)), (true, false));

        std::fs::remove_file(site.directory.path().join("users")).unwrap();
        assert!(site.basic.reload_if_changed().is_err());
        assert_eq!(outcome(&site.basic, "ann", "two", at(0)), (true, false));
    }

    #[test]
    fn a_job_that_began_before_a_change_teaches_the_new_users_nothing() {
        let site = site("r", &[("ann", "one")]);
        let Check::MustHash(job) = check(&site.basic, Some(&pair("ann", "one")), at(0)) else { panic!("no job") };
        write(&site.directory, &[("bob", "longer password")]);
        assert_eq!(site.basic.reload_if_changed().unwrap(), Reload::Changed { users: 1 });
        assert!(job.run());
        assert_eq!(outcome(&site.basic, "ann", "one", at(0)), (false, true));
    }

    #[test]
    fn the_challenge_quotes_its_realm() {
        assert_eq!(site("a \"b\" \\", &[]).basic.challenge(), r#"Basic realm="a \"b\" \\", charset="UTF-8""#);
        let users = "/nowhere/users".into();
        let missing = Basic::build(&plan::AuthBasic { users, realm: "r".into() });
        assert!(missing.unwrap_err().to_string().starts_with("cannot read the users in /nowhere/users"));
        assert!(challenge("a\nb").is_err());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let known = Known::new(Users::default());
        for number in 0..(3 * MOST_REMEMBERED) {
            let mut tag = [0; 32];
            tag[..8].copy_from_slice(&number.to_be_bytes());
            known.remember(tag, at(0));
        }
        assert!(known.remembered.lock().len() <= MOST_REMEMBERED);
    }

    proptest! {
        #[test]
        fn no_authorization_makes_it_panic(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = credentials(&value);
            let _ = credentials(&[b"Basic ", value.as_slice()].concat());
        }
    }
}
