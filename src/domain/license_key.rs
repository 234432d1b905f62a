//! The license key: 125 random bits in Crockford's base32, with his check symbol.
//!
//! `XXXXX-XXXXX-XXXXX-XXXXX-XXXXXC`: 25 symbols of five bits, most significant first, and C, the
//! number modulo 37. Crockford's scheme has five symbols more for the check values 32 to 36
//! (`*~$=U`); a key with one of these is never made, so that every key is letters and digits. That
//! costs a fifth of a bit. The check finds every wrong symbol and every swap of two neighbours.
//!
//! Crockford, "Base 32": <https://www.crockford.com/base32.html>

use std::fmt;

use zeroize::Zeroize;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const RANDOM_SYMBOLS: usize = 25;
const SYMBOLS: usize = RANDOM_SYMBOLS + 1;
const RANDOM_BITS: u32 = 125;
const GROUP: usize = 5;
const CHECK_MODULUS: u128 = 37;

/// A license key whose check symbol is right. Prints `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct LicenseKey(u128);

/// Why a text is no license key. A person mistyped: the client can tell them before any lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LicenseKeyError {
    /// Too few or too many symbols.
    #[error("must have 26 letters and digits; spaces and hyphens do not count")]
    Length,
    /// A symbol outside Crockford's base32.
    #[error("has a character that no license key has")]
    Symbol,
    /// The check symbol does not match.
    #[error("has a typing error: its last character does not match the others")]
    Check,
}

impl LicenseKey {
    /// Makes a key of random bits, asking for more until the check symbol is a letter or a digit.
    pub fn generate(mut random: impl FnMut() -> u128) -> Self {
        loop {
            let key = Self(random() >> (u128::BITS - RANDOM_BITS));
            if key.check() < ALPHABET.len() {
                return key;
            }
        }
    }

    /// Reads a key as a person types it: case, spaces and hyphens do not matter; I and L are read
    /// as 1, O as 0.
    pub fn parse(text: &str) -> Result<Self, LicenseKeyError> {
        let mut value: u128 = 0;
        let mut check = 0;
        let mut count = 0;
        for byte in text.bytes().filter(|b| !matches!(b, b' ' | b'-' | b'\t' | b'\r' | b'\n')) {
            count += 1;
            if count > SYMBOLS {
                return Err(LicenseKeyError::Length);
            }
            let symbol = symbol_value(byte).ok_or(LicenseKeyError::Symbol)?;
            if count == SYMBOLS {
                check = symbol;
            } else {
                value = value << 5 | symbol as u128;
            }
        }
        if count != SYMBOLS {
            return Err(LicenseKeyError::Length);
        }
        let key = Self(value);
        if key.check() == check { Ok(key) } else { Err(LicenseKeyError::Check) }
    }

    /// The key in groups, for the person it belongs to.
    pub fn expose(&self) -> String {
        let symbols = self.symbols();
        let (groups, check) = symbols.split_at(RANDOM_SYMBOLS);
        let mut text = groups.chunks(GROUP).map(<[u8]>::escape_ascii).fold(
            String::with_capacity(SYMBOLS + GROUP),
            |text, group| {
                if text.is_empty() { group.to_string() } else { format!("{text}-{group}") }
            },
        );
        text.extend(check.iter().map(|&symbol| char::from(symbol)));
        text
    }

    /// The 26 symbols without groups: the canonical form, which tags and thumbprints are made of.
    pub fn symbols(&self) -> [u8; SYMBOLS] {
        let mut symbols = [0; SYMBOLS];
        for (i, symbol) in symbols.iter_mut().take(RANDOM_SYMBOLS).enumerate() {
            *symbol = ALPHABET[(self.0 >> (5 * (RANDOM_SYMBOLS - 1 - i))) as usize & 31];
        }
        symbols[RANDOM_SYMBOLS] = ALPHABET[self.check() & 31];
        symbols
    }

    fn check(&self) -> usize {
        (self.0 % CHECK_MODULUS) as usize
    }
}

fn symbol_value(byte: u8) -> Option<usize> {
    let byte = match byte.to_ascii_uppercase() {
        b'I' | b'L' => b'1',
        b'O' => b'0',
        other => other,
    };
    ALPHABET.iter().position(|&symbol| symbol == byte)
}

impl fmt::Debug for LicenseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LicenseKey[redacted]")
    }
}

impl Drop for LicenseKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u128) -> LicenseKey {
        let mut state = seed;
        LicenseKey::generate(|| {
            state = state.wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645).wrapping_add(1);
            state
        })
    }

    proptest! {
        #[test]
        fn a_key_reads_back_however_it_is_typed(seed: u128) {
            let key = key(seed);
            let text = key.expose();
            prop_assert_eq!(text.len(), 30);
            prop_assert!(text.bytes().all(|b| b == b'-' || b.is_ascii_uppercase() || b.is_ascii_digit()));
            for typed in [
                text.clone(),
                text.to_lowercase(),
                text.replace('-', ""),
                text.replace('-', " "),
                text.replace('0', "O").replace('1', "l"),
            ] {
                prop_assert!(LicenseKey::parse(&typed) == Ok(key.clone()));
            }
        }

        #[test]
        fn one_wrong_symbol_is_found(seed: u128, at in 0..SYMBOLS, other in 0..32usize) {
            let mut symbols = key(seed).symbols();
            prop_assume!(symbols[at] != ALPHABET[other]);
            symbols[at] = ALPHABET[other];
            let typed = String::from_utf8(symbols.to_vec()).unwrap();
            prop_assert_eq!(LicenseKey::parse(&typed), Err(LicenseKeyError::Check));
        }

        #[test]
        fn two_swapped_neighbours_are_found(seed: u128, at in 0..SYMBOLS - 1) {
            let mut symbols = key(seed).symbols();
            prop_assume!(symbols[at] != symbols[at + 1]);
            symbols.swap(at, at + 1);
            let typed = String::from_utf8(symbols.to_vec()).unwrap();
            prop_assert_eq!(LicenseKey::parse(&typed), Err(LicenseKeyError::Check));
        }

        #[test]
        fn any_text_is_a_key_or_an_error(text in "\\PC*") {
            if let Ok(key) = LicenseKey::parse(&text) {
                prop_assert!(LicenseKey::parse(&key.expose()) == Ok(key));
            }
        }
    }

    #[test]
    fn the_check_symbol_is_crockfords() {
        // 32 mod 37 is 32, which the alphabet has no letter or digit for; 37 mod 37 is 0.
        let text = "00000-00000-00000-00000-000150";
        assert_eq!(LicenseKey::parse(text), Ok(LicenseKey(37)));
        assert_eq!(LicenseKey(37).expose(), text);
    }

    #[test]
    fn what_is_no_key_is_told_why() {
        assert_eq!(LicenseKey::parse(""), Err(LicenseKeyError::Length));
        assert_eq!(LicenseKey::parse(&"0".repeat(27)), Err(LicenseKeyError::Length));
        assert_eq!(LicenseKey::parse(&"0".repeat(1 << 20)), Err(LicenseKeyError::Length));
        assert_eq!(LicenseKey::parse(&"U".repeat(26)), Err(LicenseKeyError::Symbol));
        assert_eq!(LicenseKey::parse("ключ"), Err(LicenseKeyError::Symbol));
    }

    #[test]
    fn a_key_does_not_print_itself() {
        assert_eq!(format!("{:?}", LicenseKey(37)), "LicenseKey[redacted]");
    }
}
