//! A trained vocabulary: text to tokens and back.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};
use tokenizers::{ModelWrapper, OffsetReferential, OffsetType, PreTokenizer, Tokenizer};

use super::classes::Classes;
use super::special::{BINS, EOS, KINDS, PAD, SOS, UNK, value};
use crate::common::failure::{At, Context, Failure};
use crate::common::files::write_atomic;

/// Larger files are no vocabulary of words.
const LARGEST: u64 = 256 << 20;

/// A trained vocabulary. Nothing of it changes.
#[derive(Clone, Debug)]
pub struct WordPiece {
    tokenizer: Tokenizer,
    classes: Classes,
    hash: String,
    unknown: u32,
}

impl WordPiece {
    /// What the `tokenizers` crate has made or read, if it is such a vocabulary; `origin` is for messages.
    pub(super) fn new(tokenizer: Tokenizer, origin: &str) -> Result<Self, Failure> {
        let refuse = |why: String| Failure::new(format!("{origin} is no vocabulary of train_wordpiece: {why}"));
        if !matches!(tokenizer.get_model(), ModelWrapper::WordPiece(_)) {
            return Err(refuse("its model is not WordPiece".into()));
        }
        if tokenizer.get_normalizer().is_none()
            || tokenizer.get_pre_tokenizer().is_none()
            || tokenizer.get_decoder().is_none()
        {
            return Err(refuse("it needs a normalizer, a pre-tokenizer and a decoder".into()));
        }
        for (id, token) in (0..).zip([PAD, UNK, SOS, EOS]) {
            if tokenizer.token_to_id(token) != Some(id) {
                return Err(refuse(format!("`{token}` should be token {id}")));
            }
        }
        let added = tokenizer.get_added_tokens_decoder();
        for text in (0..KINDS).flat_map(|kind| (0..BINS).map(move |n| value(kind, n))) {
            let id = tokenizer.token_to_id(&text);
            if id.and_then(|id| added.get(&id)).is_none_or(|token| token.content != text || !token.single_word) {
                return Err(refuse(format!("`{text}` should be a token of its own")));
            }
        }
        // Names of classes are the added tokens that are looked for in the normalized text.
        let mut names: Vec<_> = added.iter().filter(|(_, token)| token.normalized).collect();
        names.sort_unstable_by_key(|(id, _)| **id);
        let classes = Classes::new(names.into_iter().map(|(_, token)| token.content.clone()))?;
        let json = tokenizer.to_string(false).map_err(|cause| refuse(cause.to_string()))?;
        let hash = Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { tokenizer, classes, hash, unknown: 1 })
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// A file that cannot be read, or is another kind of tokenizer.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let size = fs::metadata(path).at("read", path)?.len();
        if size > LARGEST {
            let place = path.display();
            return Err(Failure::new(format!("`{place}` has {size} bytes: too many for a vocabulary")));
        }
        let bytes = fs::read(path).at("read", path)?;
        let origin = format!("`{}`", path.display());
        let tokenizer = Tokenizer::from_bytes(&bytes).context(|| format!("{origin} is no tokenizer.json"))?;
        Self::new(tokenizer, &origin)
    }

    /// Writes `tokenizer.json`, whole or not at all.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        let json = self.tokenizer.to_string(true).context(|| format!("cannot write `{}`", path.display()))?;
        write_atomic(path, |file| file.write_all(json.as_bytes()).at("write", path))
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Whether there is none: never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SHA-256 of the vocabulary and its settings, in hexadecimal; how the file is laid out does not matter.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The classes that have a token each.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// The number of [`UNK`].
    pub fn unknown(&self) -> u32 {
        self.unknown
    }

    /// The number of a token, if there is such a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The text of a token; behind the start of a word it begins with `##`.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// Tokens of a text; a word of unknown characters, or of more than 100, becomes [`UNK`].
    ///
    /// # Errors
    /// None that a text is known to cause; what the `tokenizers` crate returns.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Failure> {
        let encoding = self.tokenizer.encode_fast(text, false).context(|| "cannot encode a text".into())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens: words with a space between them, as [`normalized`](Self::normalized) has them.
    ///
    /// # Errors
    /// A number that is no token's.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Failure> {
        let known = |id: u32| self.tokenizer.id_to_token(id).is_some();
        if let Some((place, id)) = ids.iter().enumerate().find(|(_, id)| !known(**id)) {
            let most = self.len();
            return Err(Failure::new(format!("token {id} at place {place}: the vocabulary has {most} tokens")));
        }
        self.tokenizer.decode(ids, false).context(|| "cannot decode tokens".into())
    }

    /// What [`decode`](Self::decode) of a text's tokens should be: the words that the text is split into, cleaned and in
    /// lower case, with a space between them. Splitting forgets where spaces were around punctuation.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn normalized(&self, text: &str) -> Result<String, Failure> {
        let cannot = || "cannot normalize a text".into();
        let mut pieces =
            self.tokenizer.get_added_vocabulary().extract_and_normalize(self.tokenizer.get_normalizer(), text);
        if let Some(split) = self.tokenizer.get_pre_tokenizer() {
            split.pre_tokenize(&mut pieces).context(cannot)?;
        }
        let words = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
        Ok(words.into_iter().map(|(word, ..)| word).collect::<Vec<_>>().join(" "))
    }
}
