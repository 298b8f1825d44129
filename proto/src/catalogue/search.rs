//! Finds documents by words: BM25 over weighted fields, kept up to date document by document.
//!
//! Both planes search with this, and the same documents give the same answer everywhere: no clock, no chance, and
//! documents of equal score come in the order of their keys. Not here: what a document is of, and who may see it.

mod words;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use serde_json::Value;

pub use words::words;

/// Words of one document; what comes after them cannot be found.
pub const DOCUMENT_WORDS_MAX: usize = 2048;
/// Documents in one index; further ones cannot be found.
pub const DOCUMENTS_MAX: usize = 1 << 20;
/// Different words of one question; further ones are not asked for.
pub const QUESTION_WORDS_MAX: usize = 32;
/// Depth to which the names of properties of a schema are read.
const SCHEMA_DEPTH_MAX: usize = 8;

/// How soon more of the same word counts for little.
const SATURATION: f64 = 1.2;
/// How much a long document is held against it.
const LENGTH: f64 = 0.75;

/// What a word in a field counts.
const IN_NAME: u32 = 4;
const IN_TITLE: u32 = 3;
const IN_TEXT: u32 = 1;

/// What can be found of one document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    pub name: String,
    pub title: String,
    /// Descriptions, and names of properties.
    pub texts: Vec<String>,
}

/// Documents, by the keys that they are found as.
#[derive(Clone, Debug)]
pub struct Index<K> {
    slots: BTreeMap<K, u32>,
    documents: Vec<Option<Entry<K>>>,
    free: Vec<u32>,
    /// For each word the documents that have it, and how much.
    postings: HashMap<Box<str>, BTreeMap<u32, u32>>,
    length_total: u64,
}

#[derive(Clone, Debug)]
struct Entry<K> {
    key: K,
    words: Vec<Box<str>>,
    length: u32,
}

/// A document that has a word: the better, the greater.
struct Found<'k, K> {
    key: &'k K,
    score: f64,
}

impl<K: Ord> Ord for Found<'_, K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.key.cmp(self.key))
    }
}

impl<K: Ord> PartialOrd for Found<'_, K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord> PartialEq for Found<'_, K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<K: Ord> Eq for Found<'_, K> {}

/// A document that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit<K> {
    pub key: K,
    pub score: f64,
}

impl Document {
    /// What can be found of a definition: its name or URI, its title and description, and what its arguments are
    /// called. One that is no JSON has only its name.
    pub fn of(name: &str, definition: &str) -> Self {
        let read: Value = serde_json::from_str(definition).unwrap_or_default();
        let text = |member: &str| read[member].as_str().unwrap_or_default().to_owned();
        let mut texts = vec![text("description")];
        let called = text("name");
        if called != name {
            texts.push(called);
        }
        properties(&read["inputSchema"], SCHEMA_DEPTH_MAX, &mut texts);
        for argument in read["arguments"].as_array().into_iter().flatten() {
            let told = ["name", "description"].map(|member| argument[member].as_str());
            texts.extend(told.into_iter().flatten().map(str::to_owned));
        }
        Self { name: name.to_owned(), title: text("title"), texts }
    }

    /// Each word, and what it counts here.
    fn weights(&self) -> BTreeMap<Box<str>, u32> {
        let fields = [(&self.name, IN_NAME), (&self.title, IN_TITLE)];
        let texts = self.texts.iter().map(|text| (text, IN_TEXT));
        let all = fields
            .into_iter()
            .chain(texts)
            .flat_map(|(text, weight)| words(text).map(move |word| (word, weight)));
        let mut weights = BTreeMap::<Box<str>, u32>::new();
        for (word, weight) in all.take(DOCUMENT_WORDS_MAX) {
            *weights.entry(word).or_default() += weight;
        }
        weights
    }
}

/// What the properties of a schema are called and said to be.
fn properties(schema: &Value, depth_left: usize, texts: &mut Vec<String>) {
    let Some(depth_left) = depth_left.checked_sub(1) else { return };
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        texts.push(name.clone());
        texts.extend(property["description"].as_str().map(str::to_owned));
        properties(property, depth_left, texts);
    }
    if !schema["items"].is_null() {
        properties(&schema["items"], depth_left, texts);
    }
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self {
            slots: BTreeMap::new(),
            documents: Vec::new(),
            free: Vec::new(),
            postings: HashMap::new(),
            length_total: 0,
        }
    }
}

impl<K: Clone + Ord> Index<K> {
    /// Documents that can be found.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes a document in, instead of the one that had its key.
    pub fn put(&mut self, key: K, document: &Document) {
        self.remove(&key);
        if self.len() >= DOCUMENTS_MAX {
            return;
        }
        let weights = document.weights();
        let length = weights.values().sum();
        self.length_total += u64::from(length);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.documents.push(None);
            u32::try_from(self.documents.len() - 1).expect("there are at most DOCUMENTS_MAX")
        });
        for (word, weight) in &weights {
            self.postings.entry(word.clone()).or_default().insert(slot, *weight);
        }
        let words = weights.into_keys().collect();
        self.slots.insert(key.clone(), slot);
        self.documents[slot as usize] = Some(Entry { key, words, length });
    }

    pub fn remove(&mut self, key: &K) {
        let Some(slot) = self.slots.remove(key) else { return };
        let Some(entry) = self.documents[slot as usize].take() else { return };
        self.free.push(slot);
        self.length_total -= u64::from(entry.length);
        for word in &entry.words {
            if let Some(documents) = self.postings.get_mut(word) {
                documents.remove(&slot);
                if documents.is_empty() {
                    self.postings.remove(word);
                }
            }
        }
    }

    /// The documents that have any of the words, the best first, at most so many of those that are wanted.
    pub fn search(&self, question: &str, limit: usize, wanted: impl Fn(&K) -> bool) -> Vec<Hit<K>> {
        let mut asked: Vec<Box<str>> = Vec::new();
        for word in words(question) {
            if asked.len() < QUESTION_WORDS_MAX && !asked.contains(&word) {
                asked.push(word);
            }
        }
        // In the order of the question, so that sums are the same every time.
        let (mut scores, mut having) = (vec![0.0_f64; self.documents.len()], Vec::new());
        for word in &asked {
            let Some(documents) = self.postings.get(word) else { continue };
            let rarity = self.rarity(documents.len());
            for (slot, weight) in documents {
                let at = *slot as usize;
                let Some(entry) = &self.documents[at] else { continue };
                if scores[at] == 0.0 {
                    having.push(at);
                }
                scores[at] += rarity * self.saturated(*weight, entry.length);
            }
        }
        let found = |at: usize| Some(Found { key: &self.documents[at].as_ref()?.key, score: scores[at] });
        // Most that have a word are never looked at: neither put in order nor asked for whether they are wanted.
        let mut best: BinaryHeap<_> = having.into_iter().filter_map(found).collect();
        let wanted = std::iter::from_fn(|| best.pop()).filter(|it| wanted(it.key)).take(limit);
        wanted.map(|Found { key, score }| Hit { key: key.clone(), score }).collect()
    }

    fn rarity(&self, having: usize) -> f64 {
        let (all, having) = (self.len() as f64, having as f64);
        ((all - having + 0.5) / (having + 0.5)).ln_1p()
    }

    fn saturated(&self, weight: u32, length: u32) -> f64 {
        let (weight, length) = (f64::from(weight), f64::from(length));
        let usual = self.length_total as f64 / self.len() as f64;
        let held_against_it = 1.0 - LENGTH + LENGTH * length / usual;
        weight * (SATURATION + 1.0) / (weight + SATURATION * held_against_it)
    }
}

#[cfg(test)]
mod tests;
