//! The token of a group: how a key is made of its text, and how a good one is made.

use argon2::{Algorithm, Argon2, Params, Version};
use lavant_proto::contact::hello::Token;

/// Shortest token: what is shorter is found by guessing, however slow each guess is.
const BYTES_MIN: usize = 12;
/// Argon2id's memory in KiB, passes and lanes, about the second choice of RFC 9106 (section 4):
/// 64 MiB for a tenth of a second at the start, which a small machine has. Whoever guesses pays the
/// same for each try.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// The same for all: nodes that have never met come to one key without talking, so there is no
/// place for a salt of each group. That a table could be made for all groups at once does not help
/// against a token of `lavant key token`, of which there are 2^140.
const SALT: &[u8] = b"lavant relay token 2";

/// Crockford's base 32: without the letters that look like digits or like each other.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Seven groups of four characters of 5 bits: 140 bits.
const GROUPS: usize = 7;
const GROUP_CHARS: usize = 4;

/// The key of a token. Takes a tenth of a second or more, so it is not for a task of the runtime.
pub(super) fn of_text(text: &str) -> Result<Token, String> {
    if text.len() < BYTES_MIN {
        return Err(format!(
            "a token has at least {BYTES_MIN} characters; 'lavant key token' makes one that \
             nobody guesses"
        ));
    }
    let mut key = [0; 32];
    Params::new(MEMORY_KIB, PASSES, LANES, Some(key.len()))
        .map(|params| Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
        .and_then(|argon2| argon2.hash_password_into(text.as_bytes(), SALT, &mut key))
        .map_err(|error| error.to_string())?;
    Ok(Token::from_key(key))
}

/// A new token that nobody guesses, easy to read and to copy.
pub fn new_token() -> Result<String, getrandom::Error> {
    let mut random = [0; GROUPS * GROUP_CHARS];
    getrandom::fill(&mut random)?;
    Ok(spelt(&random))
}

/// Five bits of each byte.
fn spelt(random: &[u8; GROUPS * GROUP_CHARS]) -> String {
    let group = |bytes: &[u8]| -> String {
        // 256 is a multiple of 32, so that each letter is as likely as all others.
        let chars = bytes.iter().map(|byte| ALPHABET[usize::from(byte % 32)]);
        chars.map(char::from).collect()
    };
    let groups: Vec<String> = random.chunks(GROUP_CHARS).map(group).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_the_reference_program_of_argon2_makes_of_the_text() {
        // argon2 "lavant relay token 2" -id -t 3 -k 65536 -p 1 -l 32 -r
        let key = "f4ec24f01db03ea41b6358da85a54ea8a1bb3b3e3054fb8b04c5607b6336ec3f";
        let bytes: Vec<u8> = (0..32)
            .map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let known = Token::from_key(bytes.try_into().unwrap());
        assert!(of_text("correct horse battery").unwrap() == known);
        assert!(of_text("correct horse battery ").unwrap() != known);
    }

    #[test]
    fn a_new_token_is_long_enough_and_never_the_same() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_ne!(one, other);
        assert!(one.len() > BYTES_MIN);
        const { assert!(5 * GROUPS * GROUP_CHARS >= 128) };
        let every: [u8; 28] = std::array::from_fn(|at| at as u8 + 4);
        assert_eq!(spelt(&every), "4567-89ab-cdef-ghjk-mnpq-rstv-wxyz");
        assert_eq!(spelt(&[0xff; 28]), "zzzz-zzzz-zzzz-zzzz-zzzz-zzzz-zzzz");
    }
}
