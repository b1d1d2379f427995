//! The tokens that no training changes, in 4M's order.

use tokenizers::AddedToken;

use super::classes::Classes;

/// Fills a sequence up.
pub const PAD: &str = "[PAD]";
/// Stands for a word of unknown characters, or of more than 100.
pub const UNK: &str = "[UNK]";
/// Starts a sequence.
pub const SOS: &str = "[SOS]";
/// Ends a sequence.
pub const EOS: &str = "[EOS]";

/// How many sentinels 4M has: they stand for masked spans.
pub const SENTINELS: usize = 200;
/// Kinds of value tokens: `v0`, `v1`, `v2`, `v3`.
pub const KINDS: usize = 4;
/// Values of each kind: `v0=0` to `v0=999`.
pub const BINS: u32 = 1000;

/// The token of value `n` of a kind: `v1=20`.
pub fn value(kind: usize, n: u32) -> String {
    format!("v{kind}={n}")
}

/// Kind and value of a value token; `None` for any other word.
pub fn parse_value(word: &str) -> Option<(usize, u32)> {
    let (kind, n) = word.strip_prefix('v')?.split_once('=')?;
    let (kind, n) = (kind.parse().ok()?, n.parse().ok()?);
    // Printed again, so that `v0=007` and `v0=+7` are none.
    (kind < KINDS && n < BINS && value(kind, n) == word).then_some((kind, n))
}

/// The token of one masked span.
pub fn sentinel(n: usize) -> String {
    format!("[S_{n}]")
}

/// All of them, in the order of their numbers.
///
/// Values and sentinels are found in the text as it is, whole words only; names of classes in the normalized text.
pub(super) fn tokens(sentinels: usize, classes: &Classes) -> Vec<AddedToken> {
    let word = |text: String| AddedToken::from(text, true).single_word(true);
    let mut all: Vec<AddedToken> = [PAD, UNK, SOS, EOS].map(|text| AddedToken::from(text, true)).into();
    all.extend((0..sentinels).map(|n| word(sentinel(n))));
    all.extend((0..KINDS).flat_map(|kind| (0..BINS).map(move |n| value(kind, n))).map(word));
    all.extend(classes.names().map(|name| word(name.to_owned()).normalized(true)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_written() {
        for kind in 0..KINDS {
            for n in [0, 1, 9, 10, 512, 999] {
                assert_eq!(parse_value(&value(kind, n)), Some((kind, n)));
            }
        }
        for word in ["v4=1", "v0=1000", "v0=-1", "v0=01", "v0=+1", "v0=", "v=1", "0=1", "v00=1", "v0=1 ", ""] {
            assert_eq!(parse_value(word), None, "{word:?}");
        }
    }

    #[test]
    fn the_order_is_that_of_4m() {
        let all = tokens(SENTINELS, &Classes::coco());
        let at = |place: usize| all[place].content.as_str();
        assert_eq!([0, 1, 2, 3, 4, 203].map(at), [PAD, UNK, SOS, EOS, "[S_0]", "[S_199]"]);
        assert_eq!([204, 1203, 1204, 4203].map(at), ["v0=0", "v0=999", "v1=0", "v3=999"]);
        assert_eq!((at(4204), at(4283), all.len()), ("airplane", "zebra", 4284));
        assert!(all.iter().all(|token| token.special), "they are never split");
        assert_eq!((all[204].normalized, all[4204].normalized), (false, true));
    }
}
