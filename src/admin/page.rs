//! The live page: one self-contained file, composed of its three parts, that asks this listener and nobody else.

/// The page with a place for its style, its script, and the nonce by which the browser knows them for ours.
const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The page, and the policy that it is served with: it may run its own script and ask its own origin, and nothing else.
pub(super) fn compose() -> (String, String) {
    let nonce = format!("{:032x}", fastrand::u128(..));
    let page = PAGE.replace("{nonce}", &nonce).replace("{style}", STYLE).replace("{script}", SCRIPT);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    (page, policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_asks_no_other_host() {
        let (page, _) = compose();
        assert!(!page.contains("{style}") && !page.contains("{script}") && !page.contains("{nonce}"));
        for foreign in ["https://", "//cdn", "@import", "url(http"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        let addresses: Vec<_> = page.match_indices("http://").map(|(at, _)| &page[at..at + 26]).collect();
        assert!(addresses.iter().all(|address| address.starts_with("http://www.w3.org/")), "{addresses:?}");
    }

    #[test]
    fn a_page_is_known_by_a_nonce_of_its_own() {
        let ((page, policy), (_, other)) = (compose(), compose());
        assert_ne!(policy, other);
        let nonce = policy.split("script-src 'nonce-").nth(1).and_then(|rest| rest.get(..32)).unwrap();
        assert_eq!(page.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    }
}
