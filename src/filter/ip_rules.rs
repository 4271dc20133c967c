//! Who may come in by address: `deny` wins, and where `allow` is written all else is refused.
//!
//! An IPv4 address that arrives inside an IPv6 one (`::ffff:10.0.0.1`, RFC 4291, 2.5.5.2) is judged as the IPv4 address it
//! is, in requests and in the lists alike.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::config::plan::Filters;

/// The `deny` and `allow` of a route.
#[derive(Debug)]
pub struct IpRules {
    deny: Option<Networks>,
    allow: Option<Networks>,
}

impl IpRules {
    /// The rules of `filters`; none where neither list is written.
    #[must_use]
    pub fn build(filters: &Filters) -> Option<Self> {
        if filters.deny.is_none() && filters.allow.is_none() {
            return None;
        }
        Some(Self {
            deny: filters.deny.as_deref().map(Networks::build),
            allow: filters.allow.as_deref().map(Networks::build),
        })
    }

    /// Whether `client` may come in. A client without an address (on a unix socket) is in no network: no `deny` meets it,
    /// and no `allow` lets it in.
    #[must_use]
    pub fn admits(&self, client: Option<IpAddr>) -> bool {
        let is_in = |networks: &Networks| client.is_some_and(|client| networks.contains(client));
        !self.deny.as_ref().is_some_and(is_in) && self.allow.as_ref().is_none_or(is_in)
    }
}

impl IpRules {
    /// Whether `deny` is written.
    pub(super) fn denies(&self) -> bool {
        self.deny.is_some()
    }

    /// Whether `allow` is written.
    pub(super) fn allows(&self) -> bool {
        self.allow.is_some()
    }
}

/// A set of networks of any size.
///
/// Networks that overlap or touch are one range, so that a lookup is one search over disjoint ranges, which take 8 bytes each
/// for IPv4, 16 for IPv6 and 32 for IPv6 networks longer than /64, and a thirtieth above that.
#[derive(Debug, Default)]
pub struct Networks {
    v4: Ranges<u32>,
    /// Networks of /64 and shorter, by the first half of the address: nearly all that are ever listed, in half the memory.
    v6_wide: Ranges<u64>,
    v6_narrow: Ranges<u128>,
}

impl Networks {
    /// The set of all addresses in `networks`.
    #[must_use]
    pub fn build(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6_wide, mut v6_narrow) = (Vec::new(), Vec::new(), Vec::new());
        for network in networks {
            match canonical(*network) {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) if net.prefix_len() <= 64 => {
                    v6_wide.push((first_half(net.network().to_bits()), first_half(net.broadcast().to_bits())));
                }
                IpNet::V6(net) => v6_narrow.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self {
            v4: Ranges::build(v4, |end| end.checked_add(1)),
            v6_wide: Ranges::build(v6_wide, |end| end.checked_add(1)),
            v6_narrow: Ranges::build(v6_narrow, |end| end.checked_add(1)),
        }
    }

    /// Whether `address` is in one of the networks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.contains(address.to_bits()),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                self.v6_wide.contains(first_half(bits)) || self.v6_narrow.contains(bits)
            }
        }
    }

    /// How many disjoint ranges the set has come down to.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.v4.ranges.len() + self.v6_wide.ranges.len() + self.v6_narrow.ranges.len()
    }
}

fn first_half(bits: u128) -> u64 {
    u64::try_from(bits >> 64).expect("64 bits are left")
}

/// A network of IPv4 addresses that is written as one of IPv6 addresses becomes the network of IPv4 addresses.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(net) = network else { return network };
    let mapped = net.network().to_ipv4_mapped().filter(|_| net.prefix_len() >= 96);
    mapped.map_or(network, |address: Ipv4Addr| {
        let net = Ipv4Net::new(address, net.prefix_len() - 96).expect("128 - 96 is 32, the longest IPv4 prefix");
        IpNet::V4(net)
    })
}

/// How many entries are compared at each level of the search: as many as come with one to four lines of the processor's
/// cache, which are fetched at the same time. Bisection would wait for one line after the other.
const BLOCK: usize = 16;

/// Disjoint inclusive ranges.
#[derive(Debug, Default)]
struct Ranges<T> {
    /// Where ranges start: each level has the first of every [`BLOCK`] entries of the level below it, the last of every
    /// [`BLOCK`] ranges; the top has one block at most.
    levels: Vec<Box<[T]>>,
    /// The ranges, in ascending order; start and end lie together, so that both come with one fetch from memory.
    ranges: Box<[(T, T)]>,
}

impl<T: Ord + Copy> Ranges<T> {
    fn build(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::new();
        for (start, end) in ranges {
            match merged.last_mut() {
                // Nothing comes after the last address, so a range that ends there takes all that follow.
                Some(last) if next(last.1).is_none_or(|next| start <= next) => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        Self { levels: levels(&merged), ranges: merged.into() }
    }

    fn contains(&self, point: T) -> bool {
        // A block is the one that its first entry, which is not above the point, led to; only the very first can be
        // above it, and then no range has begun.
        let mut entry = 0;
        for level in &self.levels {
            let Some(last) = started(block(level, entry), |start| *start <= point) else { return false };
            entry = entry * BLOCK + last;
        }
        let ranges = block(&self.ranges, entry);
        started(ranges, |(start, _)| *start <= point).is_some_and(|last| point <= ranges[last].1)
    }
}

fn block<E>(entries: &[E], number: usize) -> &[E] {
    &entries[number * BLOCK..entries.len().min((number + 1) * BLOCK)]
}

/// The last entry of `block` that has started, if any has. Counting all asks for no branch, and for their memory at once.
fn started<E>(block: &[E], has_started: impl Fn(&E) -> bool) -> Option<usize> {
    block.iter().filter(|entry| has_started(entry)).count().checked_sub(1)
}

fn levels<T: Copy>(ranges: &[(T, T)]) -> Vec<Box<[T]>> {
    let mut levels: Vec<Box<[T]>> = Vec::new();
    let mut below: Vec<T> = ranges.iter().map(|range| range.0).collect();
    while below.len() > BLOCK {
        below = below.into_iter().step_by(BLOCK).collect();
        levels.push(below.as_slice().into());
    }
    levels.reverse();
    levels
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn rules(deny: Option<&[&str]>, allow: Option<&[&str]>) -> IpRules {
        let filters = Filters { deny: deny.map(networks), allow: allow.map(networks), ..Filters::default() };
        IpRules::build(&filters).unwrap()
    }

    fn admits(rules: &IpRules, client: &str) -> bool {
        rules.admits(Some(client.parse().unwrap()))
    }

    #[test]
    fn deny_wins_over_allow_and_allow_refuses_all_else() {
        let both = rules(Some(&["10.1.0.0/16"]), Some(&["10.0.0.0/8"]));
        assert!(admits(&both, "10.2.0.1"));
        assert!(!admits(&both, "10.1.0.1"));
        assert!(!admits(&both, "192.0.2.1"));
        assert!(!both.admits(None));
        let deny = rules(Some(&["10.1.0.0/16"]), None);
        assert!(admits(&deny, "192.0.2.1"));
        assert!(deny.admits(None));
    }

    #[test]
    fn an_empty_allow_lets_nobody_in() {
        assert!(!admits(&rules(None, Some(&[])), "10.0.0.1"));
    }

    #[test]
    fn mapped_addresses_are_ipv4_in_requests_and_lists() {
        assert!(!admits(&rules(Some(&["10.0.0.0/8"]), None), "::ffff:10.0.0.1"));
        assert!(!admits(&rules(Some(&["::ffff:10.0.0.0/104"]), None), "10.0.0.1"));
        assert!(admits(&rules(Some(&["::/0"]), None), "10.0.0.1"));
    }

    #[test]
    fn the_ends_of_the_address_space_are_in_reach() {
        let set = Networks::build(&networks(&["0.0.0.0/0", "255.255.255.255/32", "::/0", "ffff::/16"]));
        assert_eq!(set.ranges(), 2);
        for address in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            assert!(set.contains(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn neighbours_become_one_range() {
        assert_eq!(Networks::build(&networks(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25"])).ranges(), 1);
        assert_eq!(Networks::build(&networks(&["10.0.0.0/24", "10.0.2.0/24"])).ranges(), 2);
    }

    proptest! {
        #[test]
        fn the_search_agrees_with_looking_at_each_range(
            starts in proptest::collection::btree_set(0u32..20_000, 0..2_000),
            points in proptest::collection::vec(0u32..20_010, 1..100),
        ) {
            let ranges = Ranges::build(starts.iter().map(|start| (*start, *start)).collect(), |end: u32| end.checked_add(1));
            for point in points {
                prop_assert_eq!(ranges.contains(point), starts.contains(&point));
            }
        }

        #[test]
        fn the_set_agrees_with_asking_each_network(
            nets in proptest::collection::vec((0u32..4096, 20u8..=32), 0..40),
            points in proptest::collection::vec(0u32..5000, 1..40),
        ) {
            let nets: Vec<Ipv4Net> = nets.iter().map(|(bits, length)| Ipv4Net::new(Ipv4Addr::from_bits(*bits), *length).unwrap()).collect();
            // The same network three times: of IPv4 addresses, in the second and in the first half of IPv6 addresses.
            let narrow = |net: &Ipv4Net| format!("2001:db8::{}/{}", net.addr(), net.prefix_len() + 96).parse().unwrap();
            let wide = |net: &Ipv4Net| ipnet::Ipv6Net::new_assert((u128::from(net.addr().to_bits()) << 64).into(), net.prefix_len() + 32);
            let all: Vec<IpNet> = nets.iter().flat_map(|net| [IpNet::V4(*net), IpNet::V6(narrow(net)), wide(net).into()]).collect();
            let set = Networks::build(&all);
            for point in points {
                let address = Ipv4Addr::from_bits(point);
                let expected = nets.iter().any(|net| net.contains(&address));
                prop_assert_eq!(set.contains(address.into()), expected);
                prop_assert_eq!(set.contains(format!("2001:db8::{address}").parse().unwrap()), expected);
                let wide = u128::from(point) << 64;
                prop_assert_eq!(set.contains(std::net::Ipv6Addr::from_bits(wide).into()), expected);
            }
        }
    }
}
