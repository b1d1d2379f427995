//! Codebook building, out of search and exact sums: seeds from a stream, Lloyd, mini-batch.
//!
//! 100,000 centres from batches of any size: [`Seeds`] draws distinct rows over the whole stream,
//! [`KMeans`] improves them pass by pass. Nothing depends on how the stream is cut into batches, but
//! for [`KMeans::mini_batch`], whose steps are the batches, and for rows more than 2⁸ times larger than
//! every initial centre, which make the unit of the sums coarser from where they come.
//!
//! Sources: Lloyd, "Least squares quantization in PCM" (IEEE TIT 1982); Sculley, "Web-scale k-means
//! clustering" (WWW 2010), algorithm 1.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;

use crate::codebook::{Line, Metric, PackedCodebook, Packing};
use crate::cpu::Cpu;
#[cfg(doc)]
use crate::error::Error;
use crate::error::{Result, same};
use crate::matrix::{MatMut, MatRef};
use crate::ops::ema::{self, Statistics};
use crate::ops::restart::hash;
use crate::ops::search::check_codebook;
use crate::rng::philox;

/// Draws `codes` distinct rows from a stream of batches, each distinct value with the same chance.
///
/// Each value has a key, a keyed hash of its bits; the smallest keys are kept (bottom-k sampling), so
/// the draw does not depend on order, batches or repetitions. A batch may have fewer rows than `codes`.
#[derive(Clone, Debug)]
pub struct Seeds {
    codes: usize,
    dim: usize,
    seed: u64,
    kept: BTreeMap<u64, Vec<f32>>,
}

impl Seeds {
    /// For `codes` centres of `dim` dimensions.
    ///
    /// # Errors
    /// [`Error::Empty`] and [`Error::TooLarge`] as for a codebook of that shape.
    pub fn new(codes: usize, dim: usize, seed: u64) -> Result<Self> {
        check_codebook("seeds", codes, dim)?;
        Ok(Self { codes, dim, seed, kept: BTreeMap::new() })
    }

    /// Offers the rows of `x` `[rows, dim]`; those with infinities or NaN are left out.
    ///
    /// # Errors
    /// [`Error::Shape`] where the dimensions differ.
    pub fn offer(&mut self, x: MatRef) -> Result<()> {
        same("seeds", "columns of x", self.dim, x.cols())?;
        for row in (0..x.rows()).map(|row| x.row(row)).filter(|x| x.iter().all(|x| x.is_finite())) {
            let h = hash(row);
            let key = [self.seed as u32, (self.seed >> 32) as u32];
            let words = philox(key, [h as u32, (h >> 32) as u32, 0, 0]);
            let key = u64::from(words[0]) | u64::from(words[1]) << 32;
            let full = self.kept.len() == self.codes;
            if full && self.kept.last_key_value().is_some_and(|(&largest, _)| key >= largest) {
                continue;
            }
            if self.kept.insert(key, row.to_vec()).is_none() && full {
                self.kept.pop_last();
            }
        }
        Ok(())
    }

    /// How many distinct rows have been drawn so far.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether no row has been drawn yet.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The centres `[codes, dim]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the stream had fewer distinct rows than `codes`.
    pub fn finish(self) -> Result<Vec<f32>> {
        same("seeds", "number of distinct rows offered", self.codes, self.kept.len())?;
        Ok(self.kept.into_values().flatten().collect())
    }
}

/// What a pass over the data came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Pass {
    /// Rows that had a centre.
    pub rows: u64,
    /// Mean (by weight) squared distance of a row from its centre before the pass moved it.
    pub inertia: f64,
    /// Centres that no row fell to.
    pub empty: usize,
    /// Of those, how many were refilled by rows far from their centres.
    pub refilled: usize,
}

impl Pass {
    /// Of `rows` rows with a centre, of that weight and sum of weighted squared distances.
    pub(crate) fn new(rows: u64, weight: f64, squared: f64, empty: usize, refilled: usize) -> Self {
        let inertia = if weight > 0.0 { squared / weight } else { 0.0 };
        Self { rows, inertia, empty, refilled }
    }
}

/// How many rows a pass keeps for its empty centres: a 64th of the centres, or 64.
pub(crate) const fn kept_rows(codes: usize) -> usize {
    if codes / 64 > 64 { codes / 64 } else { 64 }
}

/// Centres, and what the pass that is under way has gathered.
#[derive(Clone, Debug)]
pub struct KMeans {
    metric: Metric,
    dim: usize,
    centres: Vec<f32>,
    packed: PackedCodebook<Vec<Line>>,
    statistics: Statistics<Vec<i64>>,
    /// Rows that each centre was made of: mini-batch's learning rate is its inverse.
    seen: Vec<f64>,
    /// Rows that fell to each centre in this pass.
    hits: Vec<u64>,
    rows: u64,
    weight: f64,
    squared: f64,
    /// The rows farthest from their centres, and which those are: candidates for empty ones, by distance
    /// and value; of equal ones the first.
    farthest: BTreeMap<(u32, u64), (usize, Vec<f32>)>,
    codes: Vec<u32>,
}

impl KMeans {
    /// From `centres` `[codes, dim]`. With [`Metric::Cosine`] (spherical k-means) rows and centres are
    /// expected to be unit rows, and centres stay so.
    ///
    /// # Errors
    /// [`Error::Empty`] and [`Error::TooLarge`] as for a codebook of that shape; [`Error::Shape`] unless
    /// there are `codes * dim` elements.
    pub fn new(centres: Vec<f32>, codes: usize, dim: usize, metric: Metric) -> Result<Self> {
        let matrix = MatRef::new(&centres, codes, dim)?;
        let packed = PackedCodebook::with_packing(matrix, metric, Packing::suited(codes, dim, metric))?;
        // Room for rows larger than any centre, with 2⁻³² of the largest as the unit of sums.
        const ROOM: i32 = 8;
        let every_code = alloc::vec![0; codes];
        let exponent = match metric {
            Metric::Cosine => 0,
            Metric::L2 => ema::exponent(matrix, &every_code, None)?.saturating_add(ROOM),
        };
        Ok(Self {
            metric,
            dim,
            packed,
            statistics: Statistics::new(codes, dim, exponent)?,
            centres,
            seen: alloc::vec![0.0; codes],
            hits: alloc::vec![0; codes],
            rows: 0,
            weight: 0.0,
            squared: 0.0,
            farthest: BTreeMap::new(),
            codes: Vec::new(),
        })
    }

    /// The centres, `[codes, dim]`.
    pub fn centres(&self) -> MatRef<'_> {
        let rows = self.centres.len() / self.dim;
        MatRef::new(&self.centres, rows, self.dim).unwrap_or_else(|_| unreachable!("the shape is checked in `new`"))
    }

    /// Lloyd: adds a batch's rows to their nearest centres; [`finish_pass`](Self::finish_pass) moves
    /// the centres.
    ///
    /// # Errors
    /// [`Error::Shape`] where the dimensions differ, [`Error::Value`] for weights outside `0..=1`,
    /// [`Error::Overflow`] where a centre takes more than 2²² rows in a pass (more passes over fewer rows, or
    /// more centres, then); the pass cannot be gone on with.
    pub fn accumulate(&mut self, cpu: &Cpu, x: MatRef, weights: Option<&[f32]>) -> Result<()> {
        self.assign(cpu, x, weights)?;
        let exponent = ema::exponent(x, &self.codes, weights)?;
        if exponent > self.statistics.exponent() {
            self.statistics.coarsen(exponent);
        }
        self.statistics.accumulate(cpu, x, &self.codes, weights).map(drop)
    }

    /// Mini-batch: moves each hit centre to the mean of all rows that it ever took.
    ///
    /// # Errors
    /// As [`accumulate`](Self::accumulate).
    pub fn mini_batch(&mut self, cpu: &Cpu, x: MatRef, weights: Option<&[f32]>) -> Result<()> {
        self.accumulate(cpu, x, weights)?;
        self.move_centres(cpu, true)
    }

    /// Ends a pass: moves Lloyd's centres to the means of their rows, refills empty centres with the
    /// rows that lay farthest from theirs (distinct ones, no more than a 64th of the centres, or 64,
    /// in a pass), and starts the next pass.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn finish_pass(&mut self, cpu: &Cpu) -> Result<Pass> {
        self.move_centres(cpu, false)?;
        let mut pass = Pass::new(self.rows, self.weight, self.squared, 0, 0);
        let mut refilled = Vec::new();
        let mut taken: Vec<u64> = Vec::new();
        for k in (0..self.hits.len()).filter(|&k| self.hits[k] == 0) {
            pass.empty += 1;
            while let Some(((_, value), (nearest, row))) = self.farthest.pop_last() {
                // Its centre may have moved onto it, or it may have come twice, at two distances.
                let doubles = self.centres[nearest * self.dim..][..self.dim] == row[..] || taken.contains(&value);
                if !doubles {
                    self.centres[k * self.dim..][..self.dim].copy_from_slice(&row);
                    self.seen[k] = 0.0;
                    refilled.push(k as u32);
                    taken.push(value);
                    break;
                }
            }
        }
        pass.refilled = refilled.len();
        self.repack(&refilled)?;
        self.hits.fill(0);
        self.farthest.clear();
        (self.rows, self.weight, self.squared) = (0, 0.0, 0.0);
        Ok(pass)
    }

    /// Codes of a batch, and what the pass wants to know of them.
    fn assign(&mut self, cpu: &Cpu, x: MatRef, weights: Option<&[f32]>) -> Result<()> {
        self.codes.resize(x.rows(), 0);
        self.packed.prepare(cpu, x)?;
        crate::ops::search(cpu, x, weights, &self.packed, &mut self.codes, None)?;
        let room = kept_rows(self.hits.len());
        for row in 0..x.rows() {
            if self.codes[row] == crate::NO_CODE {
                continue;
            }
            let k = self.codes[row] as usize;
            let centre = &self.centres[k * self.dim..][..self.dim];
            let differences = x.row(row).iter().zip(centre).map(|(&x, &c)| f64::from(x) - f64::from(c));
            let distance: f64 = differences.map(|t| t * t).sum();
            if !distance.is_finite() {
                self.codes[row] = crate::NO_CODE;
                continue;
            }
            let weight = f64::from(crate::ops::weight(weights, row));
            self.hits[k] += 1;
            self.rows += 1;
            self.weight += weight;
            self.squared += weight * distance;
            // Non-negative floats order as their bits do.
            let key = ((distance as f32).to_bits(), hash(x.row(row)));
            let beats =
                self.farthest.len() < room || self.farthest.first_key_value().is_some_and(|(&least, _)| key > least);
            if beats && let Entry::Vacant(place) = self.farthest.entry(key) {
                place.insert((k, x.row(row).to_vec()));
                if self.farthest.len() > room {
                    self.farthest.pop_first();
                }
            }
        }
        Ok(())
    }

    /// Moves hit centres to the mean of this statistics' rows (`keep`: and of all rows before), and
    /// empties the statistics.
    fn move_centres(&mut self, cpu: &Cpu, keep: bool) -> Result<()> {
        let mut moved = Vec::new();
        for k in self.statistics.hits().map(|k| k as usize) {
            let new = self.statistics.weight(k);
            let old = if keep { self.seen[k] } else { 0.0 };
            let centre = &mut self.centres[k * self.dim..][..self.dim];
            for (c, sum) in centre.iter_mut().zip(self.statistics.sum(k)) {
                *c = ((old * f64::from(*c) + sum) / (old + new)) as f32;
            }
            self.seen[k] = old + new;
            if self.metric == Metric::Cosine && centre.iter().any(|&c| c != 0.0) {
                let row = centre.to_vec();
                crate::ops::normalize(cpu, MatRef::new(&row, 1, self.dim)?, MatMut::new(centre, 1, self.dim)?, None)?;
            }
            moved.push(k as u32);
        }
        self.statistics.clear(self.statistics.exponent());
        self.repack(&moved)
    }

    fn repack(&mut self, changed: &[u32]) -> Result<()> {
        let codebook = MatRef::new(&self.centres, self.hits.len(), self.dim)?;
        self.packed.repack_codes(codebook, changed)
    }
}
