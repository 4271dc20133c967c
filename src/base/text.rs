//! Text as bytes: short values that a hot path reads and writes without the formatting machinery.

use std::io::Write as _;
use std::net::IpAddr;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// `bytes` as text where all of them are ASCII; none where they are not.
#[inline]
#[must_use]
pub fn ascii(bytes: &[u8]) -> Option<&str> {
    // SAFETY: ASCII is UTF-8, and the check is made on these very bytes. It costs a fifth of the check for UTF-8.
    bytes.is_ascii().then(|| unsafe { std::str::from_utf8_unchecked(bytes) })
}

/// Appends an address as `Display` writes it.
pub fn address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{address}");
        return;
    };
    let (mut text, mut length) = ([0; 16], 0);
    let mut push = |byte: u8| {
        text[length] = byte;
        length += 1;
    };
    for octet in address.octets() {
        if octet >= 100 {
            push(b'0' + octet / 100);
        }
        if octet >= 10 {
            push(b'0' + octet / 10 % 10);
        }
        push(b'0' + octet % 10);
        push(b'.');
    }
    out.extend_from_slice(&text[..length - 1]);
}

/// A number as 32 hexadecimal digits.
#[must_use]
pub fn hex(number: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(number.to_be_bytes()) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_and_numbers_look_as_display_makes_them(number: u128, v4: u32) {
            let digits = hex(number);
            prop_assert_eq!(ascii(&digits).unwrap(), format!("{number:032x}"));
            for ip in [IpAddr::from(number.to_be_bytes()), IpAddr::from(v4.to_be_bytes())] {
                let mut out = b"for=".to_vec();
                address(&mut out, ip);
                prop_assert_eq!(String::from_utf8(out).unwrap(), format!("for={ip}"));
            }
        }

        #[test]
        fn only_ascii_is_ascii(bytes: Vec<u8>) {
            let expected = bytes.is_ascii().then(|| std::str::from_utf8(&bytes).unwrap());
            prop_assert_eq!(ascii(&bytes), expected);
        }
    }
}
