//! An htpasswd file: `name:hash`, one user a line, hashes of bcrypt or argon2.
//!
//! Older hashes (MD5, SHA-1, crypt, plain text) are refused, with the command that makes a good one.

use std::collections::BTreeMap;
use std::path::Path;

use argon2::password_hash::{PasswordHash, PasswordVerifier};
use thiserror::Error;

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 16 * 1024 * 1024;
/// bcrypt's cost doubles the work with each step; 16 is some seconds.
const LARGEST_COST: u32 = 16;
/// argon2's memory, in KiB: what one unauthenticated request may make us hold.
const LARGEST_MEMORY: u32 = 256 * 1024;
/// argon2's passes.
const MOST_PASSES: u32 = 64;

/// The users of a file.
#[derive(Debug, Default)]
pub struct Users {
    names: BTreeMap<String, usize>,
    hashes: Vec<Hash>,
}

/// A hash whose form has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hash {
    /// `$2a$`, `$2b$` or `$2y$`, which differ in bugs of old implementations only.
    Bcrypt(String),
    /// The PHC string format (`$argon2id$...`).
    Argon2(String),
}

/// Why a file of users cannot be used.
#[derive(Debug, Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("cannot read the users in {path}: {source} (create it with `htpasswd -cB {path} NAME`)")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is larger than 16 MiB.
    #[error("the users in {0} take more than 16 MiB (split them over routes)")]
    TooLarge(String),
    /// Lines are wrong.
    #[error("{path}: {}", list(faults))]
    Lines {
        /// The file.
        path: String,
        /// Every line that is wrong, counted from 1, and what is wrong with it.
        faults: Vec<(usize, LineFault)>,
    },
}

fn list(faults: &[(usize, LineFault)]) -> String {
    faults.iter().map(|(line, fault)| format!("line {line}: {fault}")).collect::<Vec<_>>().join("; ")
}

/// What is wrong with a line. It never repeats the hash: errors are logged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The messages say it.
pub enum LineFault {
    #[error("no colon between name and hash (write `NAME:HASH`, or make the line with `htpasswd -nB NAME`)")]
    NoColon,
    #[error("the name is missing")]
    NoName,
    #[error("`{0}` is there twice")]
    Twice(String),
    #[error("the hash of `{0}` is neither bcrypt nor argon2 (make one with `htpasswd -nB {0}`)")]
    Kind(String),
    #[error("the hash of `{0}` is malformed")]
    Malformed(String),
    #[error("the hash of `{0}` costs too much to check (bcrypt to cost 16, argon2 to 256 MiB and 64 passes)")]
    Costly(String),
}

impl Users {
    /// Reads the users in `path`.
    ///
    /// # Errors
    /// The file cannot be read, or lines in it are wrong: all of them are told.
    pub fn read(path: &Path) -> Result<Self, UsersError> {
        let name = path.display().to_string();
        let unreadable = |source| UsersError::Unreadable { path: name.clone(), source };
        if std::fs::metadata(path).map_err(unreadable)?.len() > LARGEST_FILE {
            return Err(UsersError::TooLarge(name));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text).map_err(|faults| UsersError::Lines { path: name, faults })
    }

    /// The users in `text`; empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// Every line that is wrong, counted from 1.
    pub fn parse(text: &str) -> Result<Self, Vec<(usize, LineFault)>> {
        let mut users = Self::default();
        let mut faults = Vec::new();
        for (at, line) in text.lines().map(str::trim).enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                users.add(line).unwrap_or_else(|fault| faults.push((at + 1, fault)));
            }
        }
        if faults.is_empty() { Ok(users) } else { Err(faults) }
    }

    fn add(&mut self, line: &str) -> Result<(), LineFault> {
        let (name, rest) = line.split_once(':').ok_or(LineFault::NoColon)?;
        if name.is_empty() {
            return Err(LineFault::NoName);
        }
        // A further field, as in the password files of Unix, is a comment.
        let hash = Hash::parse(name, rest.split(':').next().unwrap_or_default())?;
        if self.names.insert(name.to_owned(), self.hashes.len()).is_some() {
            return Err(LineFault::Twice(name.to_owned()));
        }
        self.hashes.push(hash);
        Ok(())
    }

    /// The hash of `name`, if there is such a user.
    #[must_use]
    pub fn hash(&self, name: &str) -> Option<&Hash> {
        self.names.get(name).map(|at| &self.hashes[*at])
    }

    /// The hash that is checked in place of the one that an unknown user does not have: one of the file's, and for one name
    /// always the same, so that the time it takes tells nothing. `key` is a secret hash of the name.
    #[must_use]
    pub fn decoy(&self, key: u64) -> Option<&Hash> {
        let count = u64::try_from(self.hashes.len()).ok()?;
        self.hashes.get(usize::try_from(key.checked_rem(count)?).ok()?)
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }
}

impl Hash {
    fn parse(name: &str, text: &str) -> Result<Self, LineFault> {
        if ["$2a$", "$2b$", "$2y$"].iter().any(|kind| text.starts_with(kind)) {
            let parts: bcrypt::HashParts = text.parse().map_err(|_| LineFault::Malformed(name.to_owned()))?;
            return match parts.get_cost() {
                0..4 => Err(LineFault::Malformed(name.to_owned())),
                4..=LARGEST_COST => Ok(Self::Bcrypt(text.to_owned())),
                _ => Err(LineFault::Costly(name.to_owned())),
            };
        }
        if !text.starts_with("$argon2") {
            return Err(LineFault::Kind(name.to_owned()));
        }
        let malformed = || LineFault::Malformed(name.to_owned());
        let hash = PasswordHash::new(text).map_err(|_| malformed())?;
        let params = argon2::Params::try_from(&hash).map_err(|_| malformed())?;
        argon2::Algorithm::try_from(hash.algorithm).map_err(|_| malformed())?;
        if hash.hash.is_none() || hash.salt.is_none() {
            return Err(malformed());
        }
        if params.m_cost() > LARGEST_MEMORY || params.t_cost() > MOST_PASSES {
            return Err(LineFault::Costly(name.to_owned()));
        }
        Ok(Self::Argon2(text.to_owned()))
    }

    /// Whether `password` is the one that was hashed. Takes as long as the hash was made to take: call it on a thread that
    /// may block. The comparison takes the same time wherever the two differ. bcrypt knows the first 72 bytes of a password.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Argon2(hash) => PasswordHash::new(hash)
                .is_ok_and(|hash| argon2::Argon2::default().verify_password(password, &hash).is_ok()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A bcrypt hash of the least cost.
    pub(in super::super) fn bcrypt_of(password: &str) -> String {
        bcrypt::hash_with_result(password, 4).unwrap().format_for_version(bcrypt::Version::TwoY)
    }

    fn argon2_of(password: &str) -> String {
        use argon2::PasswordHasher as _;
        let salt = argon2::password_hash::SaltString::from_b64("c29tZXNhbHQ").unwrap();
        let params = argon2::Params::new(64, 1, 1, None).unwrap();
        let hasher = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        hasher.hash_password(password.as_bytes(), &salt).unwrap().to_string()
    }

    #[test]
    fn both_kinds_of_hash_are_verified() {
        let text = format!("# users\n\nann:{}\nbob:{}:a comment\n", bcrypt_of("one"), argon2_of("two"));
        let users = Users::parse(&text).unwrap();
        assert_eq!(users.len(), 2);
        for (name, password, good) in
            [("ann", "one", true), ("ann", "two", false), ("bob", "two", true), ("bob", "", false)]
        {
            assert_eq!(users.hash(name).unwrap().verify(password.as_bytes()), good, "{name} {password}");
        }
        assert!(users.hash("eve").is_none());
    }

    #[test]
    fn the_three_names_of_bcrypt_mean_the_same() {
        let hash = bcrypt_of("secret");
        for kind in ["$2a$", "$2b$", "$2y$"] {
            let users = Users::parse(&format!("ann:{kind}{}", &hash[4..])).unwrap();
            assert!(users.hash("ann").unwrap().verify(b"secret"), "{kind}");
        }
    }

    #[test]
    fn a_hash_made_elsewhere_is_verified() {
        // From the test vectors of Openwall's crypt_blowfish.
        let users = Users::parse("u:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW").unwrap();
        assert!(users.hash("u").unwrap().verify(b"U*U"));
    }

    #[test]
    fn every_wrong_line_is_told_and_no_hash_repeated() {
        let hash = bcrypt_of("x");
        let text = format!(
            "nocolon\n:{hash}\nann:{hash}\nann:{hash}\nmd5:$apr1$x$y\nsha:{{SHA}}abc=\nbad:$2y$05$short\ndear:$2y$31${}\n\
             argon:$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA\nhalf:$argon2id$v=19$m=64\n",
            &hash[7..]
        );
        let faults = Users::parse(&text).unwrap_err();
        let expected = [
            (1, LineFault::NoColon),
            (2, LineFault::NoName),
            (4, LineFault::Twice("ann".into())),
            (5, LineFault::Kind("md5".into())),
            (6, LineFault::Kind("sha".into())),
            (7, LineFault::Malformed("bad".into())),
            (8, LineFault::Costly("dear".into())),
            (9, LineFault::Costly("argon".into())),
            (10, LineFault::Malformed("half".into())),
        ];
        assert_eq!(faults, expected);
        assert!(!list(&faults).contains("$2y$"));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "([a-z:$\n]|\\$2y\\$|\\$argon2id\\$v=19\\$|m=1,t=1|é){0,40}") {
            let _ = Users::parse(&text);
        }
    }
}
