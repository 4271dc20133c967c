//! What it costs to ask whether a client may come in, with lists of 10 and of 1,000,000 networks.

mod measure;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use measure::measure;
use roundel::filter::ip_rules::Networks;

const TIMES: usize = 200_000;
const CLIENTS: usize = 65_536;

fn main() {
    let mut random = fastrand::Rng::with_seed(7);
    for count in [10, 1_000_000] {
        let v4: Vec<IpNet> = (0..count).map(|_| v4(&mut random)).collect();
        let clients: Vec<IpAddr> = (0..CLIENTS).map(|_| Ipv4Addr::from_bits(random.u32(..)).into()).collect();
        bench(&format!("{count} networks of IPv4"), &v4, &clients);
        let v6: Vec<IpNet> = (0..count).map(|_| v6(&mut random)).collect();
        let clients: Vec<IpAddr> =
            (0..CLIENTS).map(|_| Ipv6Addr::from_bits(documentation(&mut random)).into()).collect();
        bench(&format!("{count} networks of IPv6"), &v6, &clients);
    }
}

fn bench(name: &str, networks: &[IpNet], clients: &[IpAddr]) {
    let start = Instant::now();
    let set = Networks::build(networks);
    println!("{name}: {} ranges, built in {:.1?}", set.ranges(), start.elapsed());
    measure(name, TIMES, |number| set.contains(clients[number % CLIENTS]));
}

fn v4(random: &mut fastrand::Rng) -> IpNet {
    let address = Ipv4Addr::from_bits(random.u32(..));
    Ipv4Net::new_assert(address, random.u8(24..=32)).into()
}

fn v6(random: &mut fastrand::Rng) -> IpNet {
    Ipv6Net::new_assert(Ipv6Addr::from_bits(documentation(random)), random.u8(48..=64)).into()
}

/// An address of 2001:db8::/32 and its like.
fn documentation(random: &mut fastrand::Rng) -> u128 {
    (0x2001_u128 << 112) | (random.u128(..) >> 16)
}
