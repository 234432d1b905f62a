//! A person's name, where the policy lets one be stored; and what staff write by hand.

use std::fmt;

use zeroize::Zeroize;

/// Why a text cannot be stored. Holds nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Empty or too long.
    #[error("must have 1 to {0} bytes")]
    Length(usize),
    /// A control character.
    #[error("has a control character, such as a line break")]
    Control,
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// Reads one, white space around it aside.
            pub fn parse(text: &str) -> Result<Self, TextError> {
                let text = text.trim();
                if !(1..=$max).contains(&text.len()) {
                    return Err(TextError::Length($max));
                }
                if text.chars().any(char::is_control) {
                    return Err(TextError::Control);
                }
                Ok(Self(text.to_owned()))
            }

            /// The text. Calling this is the one way to it.
            pub fn expose(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "[redacted]"))
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.zeroize();
            }
        }
    };
}

text_type!(
    /// A person's name: 1 to 200 bytes. Prints `[redacted]`.
    PersonName, 200
);
text_type!(
    /// Why a request was extended or refused, and what shows it: 1 to 400 bytes, so that a reason and
    /// its evidence fit one record. Prints `[redacted]`.
    Note, 400
);
