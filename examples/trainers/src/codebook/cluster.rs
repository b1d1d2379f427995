//! k-means of the groups: small ones side by side in memory, a large one from disk, pass by pass.

use core::ops::Range;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use vq_kernels::kmeans::{KMeans, Seeds};
use vq_kernels::{Cpu, MatRef, Metric};

use super::build::{Stage, Watch};
use super::features::Features;
use super::groups::Group;
use super::work::Folder;
use crate::common::failure::{Context, Failure};
use crate::common::processor::Processor;
use crate::common::random::hash_name;
use crate::common::tensors::{SafetensorsFile, Tensor, write_safetensors};
use crate::common::terminal::{Count, Progress};

/// Vectors in memory at once; a group of more is read from disk in every pass.
const BLOCK: usize = 1 << 15;

/// The file of an unfinished large group.
const PASS: &str = "centres-pass.safetensors";

/// How to cluster.
#[derive(Clone, Copy)]
pub(super) struct Recipe {
    /// Most passes; fewer where the centres no longer move.
    pub iterations: usize,
    /// Seed of the first centres.
    pub seed: u64,
}

/// Centres of all groups, in their order.
pub(super) struct Clusters {
    /// `[codes, width]`.
    pub centres: Vec<f32>,
    /// Sum over the vectors of the squared distance from their centre.
    pub squared: f64,
}

/// A group on its way: its centres so far.
#[derive(Clone, Default)]
struct State {
    passes: usize,
    centres: Vec<f32>,
    /// Mean squared distance in the last pass.
    inertia: f64,
}

/// Clusters what `folder` does not hold yet, and gives it all.
pub(super) fn cluster(
    folder: &Folder,
    features: &Features,
    groups: &[Group],
    shares: &[usize],
    recipe: Recipe,
    processor: &Processor,
    watch: &Watch<'_>,
) -> Result<Clusters, Failure> {
    let width = features.width();
    let vectors = |group: usize| features.vectors_of(&groups[group].pictures);
    let mut progress = Progress::new("k-means", vectors(groups.len() - 1).end as u64, Count::Items);
    let codes: usize = shares.iter().sum();
    let mut all = Clusters { centres: Vec::with_capacity(codes * width), squared: 0.0 };
    for (index, block) in blocks(groups.len(), |group| vectors(group).len()).into_iter().enumerate() {
        let path = folder.file(&format!("centres-{index:06}.safetensors"));
        let expected = shares[block.clone()].iter().sum::<usize>() * width;
        if !path.exists() {
            let run = Run { folder, features, recipe, processor, watch };
            let states = match block.len() {
                1 if vectors(block.start).len() > BLOCK => {
                    vec![run.large(groups, block.start, shares[block.start], &mut progress)?]
                }
                _ => run.small(groups, shares, block.clone())?,
            };
            let centres = states.iter().flat_map(|state| &state.centres).copied().collect::<Vec<f32>>();
            let pairs = states.iter().zip(block.clone());
            let squared = [pairs.map(|(state, group)| state.inertia * vectors(group).len() as f64).sum::<f64>()];
            let shape = [centres.len() / width, width];
            let tensors = [Tensor::new("centres", &shape, &centres), Tensor::new("squared", &[1], &squared)];
            write_safetensors(&path, &tensors, &[])?;
            watch(Stage::Block(index))?;
        }
        let mut file = SafetensorsFile::open(&path)?;
        let (centres, squared) = (file.read::<f32>("centres")?, file.read::<f64>("squared")?);
        if centres.len() != expected || squared.len() != 1 {
            let (place, found) = (path.display(), centres.len());
            return Err(Failure::new(format!(
                "`{place}` holds {found} values, expected {expected}; remove it and start again with --resume"
            )));
        }
        all.centres.extend(centres);
        all.squared += squared.iter().sum::<f64>();
        progress.tick(vectors(block.end - 1).end as u64, format_args!("{} centres", all.centres.len() / width));
    }
    progress.done();
    Ok(all)
}

/// Groups that follow each other and have at most [`BLOCK`] vectors together, or one group.
fn blocks(groups: usize, vectors: impl Fn(usize) -> usize) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    let mut held = 0;
    for group in 0..groups {
        match blocks.last_mut() {
            Some(last) if held + vectors(group) <= BLOCK => last.end = group + 1,
            _ => {
                blocks.push(group..group + 1);
                held = 0;
            }
        }
        held += vectors(group);
    }
    blocks
}

/// What clustering a block takes.
struct Run<'a> {
    folder: &'a Folder,
    features: &'a Features,
    recipe: Recipe,
    processor: &'a Processor,
    watch: &'a Watch<'a>,
}

impl Run<'_> {
    /// Clusters the groups of a block in memory: several at a time, each on one thread; one alone on all.
    fn small(&self, groups: &[Group], shares: &[usize], block: Range<usize>) -> Result<Vec<State>, Failure> {
        let start = self.features.vectors_of(&groups[block.start].pictures).start;
        let end = self.features.vectors_of(&groups[block.end - 1].pictures).end;
        let width = self.features.width();
        let mut rows = Vec::with_capacity((end - start) * width);
        self.features.each(start..end, &mut |part| {
            rows.extend_from_slice(part);
            Ok(())
        })?;
        let single = block.len() == 1;
        let cpu = self.processor.cpu();
        let cluster = |&group: &usize| {
            let vectors = self.features.vectors_of(&groups[group].pictures);
            let rows = &rows[(vectors.start - start) * width..(vectors.end - start) * width];
            let cpu = if single { cpu } else { Cpu::with_isa(cpu.isa()) };
            let each = |visit: &mut Visit<'_>| visit(rows);
            let saved = |_: &State| Ok(());
            self.lloyd(&cpu, &groups[group].name, shares[group], &each, State::default(), &saved)
        };
        let block: Vec<usize> = block.collect();
        match self.processor.pool() {
            Some(pool) if !single => pool.install(|| block.par_iter().map(cluster).collect()),
            _ => block.iter().map(cluster).collect(),
        }
    }

    /// Clusters a group from disk; every pass is saved.
    fn large(&self, groups: &[Group], group: usize, codes: usize, progress: &mut Progress) -> Result<State, Failure> {
        let name = &groups[group].name;
        let width = self.features.width();
        let path = self.folder.file(PASS);
        let mut state = State::default();
        if path.exists() {
            let mut file = SafetensorsFile::open(&path)?;
            // Else it is what the large group before has left.
            if file.metadata("group") == Some(&group.to_string()) {
                state.passes = file.read::<u64>("passes")?.first().map_or(0, |&passes| passes as usize);
                state.inertia = file.read::<f64>("inertia")?.first().copied().unwrap_or_default();
                state.centres = file.read("centres")?;
                if state.centres.len() != codes * width {
                    let place = path.display();
                    return Err(Failure::new(format!("`{place}` is of other settings; remove it and start again")));
                }
            }
        }
        let vectors = self.features.vectors_of(&groups[group].pictures);
        let progress = std::sync::Mutex::new(progress);
        let each = |visit: &mut Visit<'_>| {
            self.features.each(vectors.clone(), &mut |rows| {
                (self.watch)(Stage::Batch)?;
                visit(rows)
            })
        };
        let save = |state: &State| {
            let (passes, inertia) = ([state.passes as u64], [state.inertia]);
            let tensors = [
                Tensor::new("centres", &[codes, width], &state.centres),
                Tensor::new("passes", &[1], &passes),
                Tensor::new("inertia", &[1], &inertia),
            ];
            write_safetensors(&path, &tensors, &[("group".into(), group.to_string())])?;
            if let Ok(mut progress) = progress.lock() {
                let share = vectors.len() as f64 * state.passes as f64 / self.recipe.iterations as f64;
                let message = format_args!("pass {}: mean squared distance {:.4}", state.passes, state.inertia);
                progress.tick((vectors.start as f64 + share) as u64, message);
            }
            (self.watch)(Stage::Pass(state.passes))
        };
        self.lloyd(&self.processor.cpu(), name, codes, &each, state, &save)
    }

    /// Lloyd's iteration from distinct vectors, or on from `state`; `save` is called with every state worth keeping.
    ///
    /// Every pass begins with a new [`KMeans`], so that the centres are all its state and a resumed pass is the same.
    fn lloyd(
        &self,
        cpu: &Cpu,
        name: &str,
        codes: usize,
        each: &Each<'_>,
        mut state: State,
        save: &dyn Fn(&State) -> Result<(), Failure>,
    ) -> Result<State, Failure> {
        let width = self.features.width();
        if codes == 0 {
            return Ok(state);
        }
        let what = || if name.is_empty() { "k-means".into() } else { format!("k-means of `{name}`") };
        if state.centres.is_empty() {
            let mut seeds = Seeds::new(codes, width, hash_name(name, self.recipe.seed)).context(what)?;
            each(&mut |rows| seeds.offer(matrix(rows, width)?).context(what))?;
            state.centres = seeds.finish().context(what)?;
            save(&state)?;
        }
        while state.passes < self.recipe.iterations {
            let mut kmeans = KMeans::new(state.centres.clone(), codes, width, Metric::L2).context(what)?;
            each(&mut |rows| kmeans.accumulate(cpu, matrix(rows, width)?, None).context(what))?;
            let pass = kmeans.finish_pass(cpu).context(what)?;
            let moved = kmeans.centres().data().to_vec();
            let settled = moved == state.centres;
            state = State { passes: state.passes + 1, centres: moved, inertia: pass.inertia };
            save(&state)?;
            if settled {
                break;
            }
        }
        Ok(state)
    }
}

fn matrix(rows: &[f32], width: usize) -> Result<MatRef<'_>, Failure> {
    Ok(MatRef::new(rows, rows.len() / width, width)?)
}

type Visit<'a> = dyn FnMut(&[f32]) -> Result<(), Failure> + 'a;
type Each<'a> = dyn Fn(&mut Visit<'_>) -> Result<(), Failure> + 'a;
