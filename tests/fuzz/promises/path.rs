//! Any text as a path: no panic, and a normal form that is its own, without dot elements and empty ones.

use roundel::base::path::{NormalPath, after_prefix};

/// Holds the promise to these bytes, where they are text.
pub fn holds(bytes: &[u8]) {
    let Ok(raw) = std::str::from_utf8(bytes) else { return };
    let Ok(normal) = NormalPath::new(raw) else { return };
    let once = normal.as_str();
    assert_eq!(NormalPath::new(once).as_ref(), Ok(&normal));
    // It may be one byte longer than the raw form, which may be empty.
    assert!(once.len() <= raw.len().max(1));
    if once == "*" {
        return;
    }
    assert!(once.starts_with('/'));
    let inner = once.strip_suffix('/').unwrap_or(once);
    assert!(inner.split('/').skip(1).all(|element| !matches!(element, "" | "." | "..")), "{once}");
    // What an escape hides stays hidden: slashes and NUL are never decoded.
    assert!(!once.contains('\0') || raw.contains('\0'));
    assert!(once.matches('/').count() <= raw.matches('/').count().max(1));
    if let Some(rest) = inner.rfind('/').and_then(|at| after_prefix(once, &once[..at])) {
        assert!(rest.is_empty() || rest.starts_with('/'));
    }
}
