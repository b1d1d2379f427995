//! Training: which pieces of words get a token.

use std::collections::{BTreeMap, BTreeSet};

use tokenizers::decoders::wordpiece::WordPiece as Decoder;
use tokenizers::models::wordpiece::{WordPiece as Model, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Tokenizer, Trainer,
};

use super::classes::Classes;
use super::special::{SENTINELS, UNK, tokens};
use super::tokenizer::WordPiece;
use crate::common::failure::{Context, Failure};

/// In front of a piece that does not start its word.
const PREFIX: &str = "##";

/// How to train.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Tokens in all.
    pub vocabulary: usize,
    /// Pairs that occur less often are not joined.
    pub min_frequency: u64,
    /// Sentinels for masked spans.
    pub sentinels: usize,
    /// Classes with a token each.
    pub classes: Classes,
    /// Whether text is put in lower case. Accents are stripped then, and kept otherwise, as in BERT.
    pub lowercase: bool,
}

impl Default for Recipe {
    /// 4M's.
    fn default() -> Self {
        Self { vocabulary: 30_000, min_frequency: 0, sentinels: SENTINELS, classes: Classes::coco(), lowercase: true }
    }
}

impl Recipe {
    fn normalizer(&self) -> BertNormalizer {
        BertNormalizer::new(true, true, None, self.lowercase)
    }

    /// The words of a text, as training counts them.
    fn words(&self, text: &str) -> tokenizers::Result<Vec<String>> {
        let mut text = NormalizedString::from(text);
        self.normalizer().normalize(&mut text)?;
        let mut words = PreTokenizedString::from(text);
        BertPreTokenizer.pre_tokenize(&mut words)?;
        let words = words.get_splits(OffsetReferential::Normalized, OffsetType::None);
        Ok(words.into_iter().map(|(word, ..)| word.to_owned()).collect())
    }

    fn check(&self) -> Result<(), Failure> {
        for name in self.classes.names() {
            let words = self.words(name).context(|| format!("the class `{name}`"))?;
            if words.concat() != name.replace(' ', "") {
                let normal = words.join(" ");
                return Err(Failure::new(format!(
                    "the class `{name}` would come back as `{normal}`: write it so in --classes"
                )));
            }
        }
        Ok(())
    }
}

/// Trains a vocabulary on these texts, which decide nothing but the pieces of words. The same texts give the same vocabulary.
///
/// The pieces are found by joining the most frequent pair of neighbours again and again (Sennrich et al. 2016), which is
/// what the `tokenizers` crate calls WordPiece training. That crate numbers pieces in the order of a hash map and breaks
/// ties by number; so every character is listed here, as the start of a word and as its continuation, in the order of
/// Unicode. A character of the training texts is then known at every place of a word.
///
/// # Errors
/// Texts without a word, a class that is not in normal form, and a vocabulary that special tokens and characters fill.
pub fn train(recipe: &Recipe, texts: &[String]) -> Result<WordPiece, Failure> {
    recipe.check()?;
    let cannot = || "cannot train the vocabulary".to_owned();
    let mut counts: BTreeMap<char, u64> = BTreeMap::new();
    for text in texts {
        for character in recipe.words(text).context(cannot)?.iter().flat_map(|word| word.chars()) {
            *counts.entry(character).or_default() += 1;
        }
    }
    if counts.is_empty() {
        return Err(Failure::new("there is no word to train on: give texts with letters"));
    }
    // The crate counts pairs in 32 bits.
    let characters: u64 = counts.values().sum();
    if i32::try_from(characters).is_err() {
        return Err(Failure::new(format!(
            "{characters} characters of text are too many: at most {}; train on a part",
            i32::MAX
        )));
    }
    let special = tokens(recipe.sentinels, &recipe.classes);
    let taken: BTreeSet<&str> = special.iter().map(|token| token.content.as_str()).collect();
    let starts = counts.keys().map(char::to_string);
    let pieces = starts.chain(counts.keys().map(|character| format!("{PREFIX}{character}")));
    let pieces: Vec<String> = pieces.filter(|piece| !taken.contains(piece.as_str())).collect();
    let least = special.len() + pieces.len();
    if recipe.vocabulary < least {
        return Err(Failure::new(format!(
            "a vocabulary of {} tokens is too small: special tokens take {}, {} characters at the start of a word and \
             behind it take {}; give at least {least}",
            recipe.vocabulary,
            special.len(),
            counts.len(),
            pieces.len()
        )));
    }

    let fixed = pieces.into_iter().map(|piece| AddedToken::from(piece, false));
    let mut trainer = WordPieceTrainer::builder()
        .vocab_size(recipe.vocabulary)
        .min_frequency(recipe.min_frequency)
        .show_progress(false)
        .continuing_subword_prefix(PREFIX.into())
        .special_tokens(special.iter().cloned().chain(fixed).collect())
        .build();
    trainer.feed(texts.iter(), |text| recipe.words(text)).context(cannot)?;
    let mut model = Model::builder().unk_token(UNK.into()).build().context(cannot)?;
    // Returns all that were listed, among them the characters, which are no special tokens.
    trainer.train(&mut model).context(cannot)?;

    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(recipe.normalizer()))
        .with_pre_tokenizer(Some(BertPreTokenizer))
        // The tidied form (`do not` becomes `don't`) would not come back as it was.
        .with_decoder(Some(Decoder::new(PREFIX.into(), false)));
    tokenizer.add_special_tokens(&special);
    WordPiece::new(tokenizer, "what was trained")
}
