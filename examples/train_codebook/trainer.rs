//! One training: a quantizer, its optimizer, the order of the rows, and checkpoints.

use std::path::Path;

use serde_json::json;
use vq_kernels::kmeans::{KMeans, Seeds};
use vq_kernels::ops::restart::Rule;
use vq_kernels::ops::usage::count;
use vq_kernels::quantizer::{Config, Initial, Learner, Quantizer, Report, StateMut, StateRef};
use vq_kernels::rng::Permutation;
use vq_kernels::{Cpu, MatMut, MatRef, Metric, ops};

use crate::common::Failure;
use crate::common::adam::{Adam, Constants};
use crate::common::failure::Context;
use crate::common::learning;
use crate::common::tensors::{SafetensorsFile, Tensor, write_safetensors};
use crate::common::terminal::{Count, Progress, interrupted};
use crate::data::{Data, Rows};
use crate::options::{Init, Learn, Options};

/// Rows that are handled at a time outside training.
const BLOCK: usize = 16 * ops::ROW_BLOCK;

/// The settings of one training.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub learn: Learn,
    pub init: Init,
    pub codes: usize,
    pub dim: usize,
    pub l2: bool,
    pub restart: bool,
    pub factorize: bool,
    pub steps: u64,
    pub batch: usize,
    pub lr: f64,
    pub commitment: f64,
    pub kmeans_passes: u64,
    pub seed: u64,
}

impl Plan {
    /// As VQGAN, VQGAN-FC, VQGAN-EMA and VQGAN-LC were published: no l2 norm, no restart.
    pub fn published(learn: Learn, codes: usize, options: &Options) -> Self {
        let frozen = learn == Learn::Projector;
        Self {
            learn,
            init: if frozen { Init::Kmeans } else { Init::Uniform },
            codes,
            dim: options.dim,
            l2: false,
            restart: false,
            factorize: learn != Learn::Plain,
            steps: options.steps,
            batch: options.batch,
            lr: options.lr,
            commitment: options.commitment.unwrap_or(if frozen { 0.1 } else { 0.25 }),
            kmeans_passes: options.kmeans_passes,
            seed: options.seed,
        }
    }

    fn config(&self, inputs: usize) -> Config {
        let frozen = self.learn == Learn::Projector;
        Config {
            inputs,
            dim: if self.factorize { self.dim } else { inputs },
            codes: self.codes,
            learner: match self.learn {
                Learn::Plain | Learn::Gradient => Learner::Gradient,
                Learn::Ema => Learner::Ema,
                Learn::Projector => Learner::Projector { source_dim: inputs },
            },
            // Encoder and decoder are always there; without factorization they keep the input's width.
            factorize: true,
            normalize: self.l2,
            restart: (self.restart && !frozen).then(|| Rule { seed: self.seed, ..Rule::default() }),
            commitment_weight: self.commitment,
            seed: self.seed,
            ..Config::default()
        }
    }

    /// All that a checkpoint must agree with to be gone on with.
    fn identity(&self, data: &Data) -> String {
        let rows = (data.train.len(), data.train.dim, &data.source);
        format!("{self:?} {rows:?}")
    }
}

/// A training under way.
pub struct Trainer<'a> {
    pub plan: Plan,
    pub quantizer: Quantizer,
    adam: Adam,
    cpu: Cpu<'a>,
    /// The step, plus one, at which each code was last hit; 0 is never.
    last_hit: Vec<u64>,
    batch: Vec<f32>,
}

impl<'a> Trainer<'a> {
    pub fn new(plan: Plan, data: &Data, cpu: Cpu<'a>) -> Result<Self, Failure> {
        let config = plan.config(data.train.dim);
        let fresh = |initial| Quantizer::new(config, initial).context(|| "cannot set up the quantizer".into());
        let mut quantizer = match plan.init {
            Init::Normal => fresh(Initial::Normal)?,
            Init::Uniform => fresh(Initial::Uniform)?,
            Init::Kmeans => {
                // The encoder that rows are seen through at the start is the one of this seed, whatever the codes.
                let encoder = match plan.learn {
                    Learn::Projector => None,
                    Learn::Plain | Learn::Gradient | Learn::Ema => Some(fresh(Initial::Normal)?),
                };
                fresh(Initial::Codes(kmeans(&plan, &data.train, encoder.as_ref(), &cpu)?))?
            }
        };
        if plan.learn == Learn::Projector {
            align(&mut quantizer)?;
        }
        let adam = learning::optimizer(&quantizer, Constants::default());
        Ok(Self { plan, quantizer, adam, cpu, last_hit: vec![0; plan.codes], batch: Vec::new() })
    }

    /// One step on the rows that belong to it.
    pub fn step(&mut self, data: &Data) -> Result<Report, Failure> {
        let step = self.quantizer.step();
        fill_batch(&mut self.batch, &data.train, self.plan.batch, self.plan.seed, step);
        let dim = data.train.dim;
        let rows = self.batch.len() / dim;
        let x = MatRef::new(&self.batch, rows, dim).context(|| "cannot view the batch".into())?;
        // The gradient of the mean squared error over elements.
        let scale = 2.0 / (rows * dim) as f32;
        let report = self.quantizer.train_step(&self.cpu, x, None, |output, gradient| {
            for ((g, &out), &x) in gradient.iter_mut().zip(output.data()).zip(x.data()) {
                *g = scale * (out - x);
            }
        });
        let report = report.context(|| format!("step {step} failed"))?;
        if !(report.loss.commitment.is_finite() && report.loss.codebook.is_finite()) {
            return Err(Failure::new(format!(
                "step {step}: the loss is no longer finite; the last checkpoint still stands: try a lower --lr"
            )));
        }
        for &code in self.quantizer.last_codes() {
            if let Some(hit) = self.last_hit.get_mut(code as usize) {
                *hit = step + 1;
            }
        }
        let lr = self.learning_rate(step);
        learning::apply(&mut self.quantizer, &mut self.adam, &self.cpu, lr)
            .context(|| format!("step {step}: the update failed"))?;
        Ok(report)
    }

    /// Linear warm-up over the first twentieth, then half a cosine to a hundredth.
    fn learning_rate(&self, step: u64) -> f64 {
        let (step, steps) = (step as f64, self.plan.steps as f64);
        let warm = (steps / 20.0).max(1.0);
        if step < warm {
            return self.plan.lr * (step + 1.0) / warm;
        }
        let progress = ((step - warm) / (steps - warm).max(1.0)).min(1.0);
        self.plan.lr * (0.01 + 0.99 * 0.5 * (1.0 + (core::f64::consts::PI * progress).cos()))
    }

    /// Share of the codes that were hit within the last steps that would give each 8 hits, were all used alike.
    pub fn recent_utilization(&self) -> f64 {
        let window = (8.0 * self.plan.codes as f64 / self.plan.batch as f64).ceil() as u64;
        let now = self.quantizer.step();
        let recent = self.last_hit.iter().filter(|&&hit| hit > 0 && hit + window > now);
        recent.count() as f64 / self.plan.codes as f64
    }

    /// How often each code is used over `rows`, block by block.
    pub fn usage(&self, rows: &Rows, what: &str) -> Result<Vec<u64>, Failure> {
        let mut counts = vec![0; self.plan.codes];
        self.encoded(rows, what, |_, codes| count(codes, None, &mut counts).context(|| "cannot count codes".into()))?;
        Ok(counts)
    }

    /// The output for each of `rows`.
    pub fn reconstructed(&self, rows: &Rows, what: &str) -> Result<Vec<f32>, Failure> {
        let mut output = vec![0.0; rows.values.len()];
        self.encoded(rows, what, |first, codes| {
            let output = &mut output[first * rows.dim..(first + codes.len()) * rows.dim];
            let output = MatMut::new(output, codes.len(), rows.dim).context(|| "cannot view the output".into())?;
            self.quantizer.decode(&self.cpu, codes, output).context(|| "cannot decode".into())
        })?;
        Ok(output)
    }

    fn encoded(
        &self,
        rows: &Rows,
        what: &str,
        mut with: impl FnMut(usize, &[u32]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut progress = Progress::new(what, rows.len() as u64, Count::Items);
        let mut codes = vec![0u32; BLOCK];
        for (first, values) in (0..).step_by(BLOCK).zip(rows.values.chunks(BLOCK * rows.dim)) {
            if interrupted() {
                return Err(Failure::interrupted());
            }
            let n = values.len() / rows.dim;
            let x = MatRef::new(values, n, rows.dim).context(|| "cannot view rows".into())?;
            let codes = &mut codes[..n];
            self.quantizer.encode(&self.cpu, x, None, codes).context(|| "cannot encode".into())?;
            with(first, codes)?;
            progress.tick((first + n) as u64, "rows");
        }
        progress.done();
        Ok(())
    }

    /// Writes all that is needed to go on.
    pub fn save(&self, path: &Path, data: &Data) -> Result<(), Failure> {
        let mut tensors = learning::quantizer_tensors("", &self.quantizer, |_| true);
        tensors.extend(learning::adam_tensors("", &self.adam));
        tensors.push(Tensor::new("last_hit", &[self.last_hit.len()], &self.last_hit));
        let metadata = [
            ("format".to_owned(), "vq-kernels checkpoint 1".to_owned()),
            ("plan".to_owned(), self.plan.identity(data)),
        ];
        write_safetensors(path, &tensors, &metadata)
    }

    /// Takes up what [`save`](Self::save) wrote.
    pub fn load(&mut self, path: &Path, data: &Data) -> Result<(), Failure> {
        let mut file = SafetensorsFile::open(path)?;
        let expected = self.plan.identity(data);
        match file.metadata("plan") {
            Some(plan) if plan == expected => {}
            Some(plan) => {
                return Err(Failure::new(format!(
                    "`{}` belongs to another run; resume with the same options and data, or choose another --out\n  \
                     there: {plan}\n  here:  {expected}",
                    path.display()
                )));
            }
            None => return Err(Failure::new(format!("`{}` is not a checkpoint of this program", path.display()))),
        }
        learning::restore_quantizer("", &mut self.quantizer, &mut file, |_| true)?;
        learning::restore_adam("", &mut self.adam, &mut file)?;
        learning::fill(&mut self.last_hit, &mut file, "last_hit")
    }

    /// Writes what encoding and decoding need, and nothing else.
    pub fn export(&self, path: &Path, data: &Data) -> Result<(), Failure> {
        let (q, config) = (&self.quantizer, self.quantizer.config());
        let mut tensors = vec![Tensor::new("codebook", &[config.codes, config.dim], q.codebook().data())];
        let layers = [
            (q.project_in(), "project_in.weight", "project_in.bias"),
            (q.project_out(), "project_out.weight", "project_out.bias"),
        ];
        for (layer, weight, bias) in layers {
            if let Some(layer) = layer {
                tensors.push(Tensor::new(weight, &[layer.bias().len(), layer.inputs()], layer.weight().data()));
                tensors.push(Tensor::new(bias, &[layer.bias().len()], layer.bias()));
            }
        }
        let input = if data.grids.is_empty() { "features" } else { "patches" };
        let metadata: Vec<(String, String)> = [
            ("format", "vq-kernels codebook 1".to_owned()),
            ("metric", config.metric().name().to_owned()),
            ("normalize", config.normalize.to_string()),
            ("input", input.to_owned()),
            ("patch", data.patch.to_string()),
            // Features are (x − mean) / scale; patches are pixels in −1..1, ordered y, x, channel.
            ("mean", data.mean.to_string()),
            ("scale", data.scale.to_string()),
            ("learn", self.plan.learn.name().to_owned()),
            ("steps", q.step().to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        write_safetensors(path, &tensors, &metadata)
    }

    /// One line of the log.
    pub fn log_line(&self, report: &Report) -> serde_json::Value {
        json!({
            "step": self.quantizer.step(),
            "codebook_loss": report.loss.codebook,
            "commitment_loss": report.loss.commitment,
            "mean_norm": report.mean_norm,
            "active_in_batch": report.active,
            "recent_utilization": self.recent_utilization(),
            "stale": report.restart.stale,
            "restarted": report.restart.restarted,
            "without_code": report.without_code,
        })
    }
}

/// The rows of step `step`: a pure function of seed and step. Each epoch is a permutation of all rows.
fn fill_batch(batch: &mut Vec<f32>, rows: &Rows, size: usize, seed: u64, step: u64) {
    let n = rows.len() as u64;
    batch.clear();
    for i in step * size as u64..(step + 1) * size as u64 {
        let row = Permutation::new(seed, i / n, n).permuted(i % n) as usize;
        batch.extend_from_slice(&rows.values[row * rows.dim..(row + 1) * rows.dim]);
    }
}

/// The encoder starts as the projector: rows and centres live in one space, and so begin aligned.
fn align(quantizer: &mut Quantizer) -> Result<(), Failure> {
    let Some((weight, bias)) = projector(quantizer) else { return Ok(()) };
    quantizer.restore(|name, place| {
        match (name, place) {
            ("project_in.weight", StateMut::F32(values)) => values.copy_from_slice(&weight),
            ("project_in.bias", StateMut::F32(values)) => values.copy_from_slice(&bias),
            _ => {}
        }
        Ok(())
    })
}

fn projector(quantizer: &Quantizer) -> Option<(Vec<f32>, Vec<f32>)> {
    let state = quantizer.state();
    let tensor = |wanted: &str| {
        state.iter().find_map(|(name, values)| match values {
            StateRef::F32(values) if *name == wanted => Some(values.to_vec()),
            _ => None,
        })
    };
    Some((tensor("projector.weight")?, tensor("projector.bias")?))
}

/// Centres of the training rows (as `encoder` sees them, where there is one), from a stream of blocks:
/// seeds over all rows, then passes of Lloyd's iteration.
fn kmeans(plan: &Plan, rows: &Rows, encoder: Option<&Quantizer>, cpu: &Cpu) -> Result<Vec<f32>, Failure> {
    let config = plan.config(rows.dim);
    let (dim, metric) = match encoder {
        Some(_) => (config.dim, config.metric()),
        None => (rows.dim, Metric::L2),
    };
    let blocks = rows.values.len().div_ceil(BLOCK * rows.dim) as u64;
    let mut progress = Progress::new("k-means", (plan.kmeans_passes + 1) * blocks, Count::Items);
    let mut done = 0;
    let mut seeds = Seeds::new(config.codes, dim, plan.seed)?;
    let mut each_block = |what: &str, with: &mut dyn FnMut(MatRef) -> Result<(), Failure>| -> Result<(), Failure> {
        for values in rows.values.chunks(BLOCK * rows.dim) {
            if interrupted() {
                return Err(Failure::interrupted());
            }
            let seen = seen(values, rows.dim, encoder, cpu)?;
            with(MatRef::new(seen.as_deref().unwrap_or(values), values.len() / rows.dim, dim)?)?;
            done += 1;
            progress.tick(done, what);
        }
        Ok(())
    };
    each_block("seeds", &mut |x| Ok(seeds.offer(x)?))?;
    let (codes, found) = (config.codes, seeds.len());
    let centres = seeds.finish().context(|| {
        format!("the training data has only {found} distinct rows for {codes} codes; use fewer --codes, or more data")
    })?;
    let mut kmeans = KMeans::new(centres, codes, dim, metric)?;
    for _ in 0..plan.kmeans_passes {
        each_block("Lloyd", &mut |x| Ok(kmeans.accumulate(cpu, x, None)?))?;
        kmeans.finish_pass(cpu)?;
    }
    progress.done();
    Ok(kmeans.centres().data().to_vec())
}

/// A block of rows as search will see them at the start of training; `None` is as they are.
fn seen(values: &[f32], dim: usize, encoder: Option<&Quantizer>, cpu: &Cpu) -> Result<Option<Vec<f32>>, Failure> {
    let Some(encoder) = encoder else { return Ok(None) };
    let (config, rows) = (encoder.config(), values.len() / dim);
    let mut z = values.to_vec();
    if let Some(linear) = encoder.project_in() {
        z.resize(rows * config.dim, 0.0);
        linear.forward(cpu, MatRef::new(values, rows, dim)?, MatMut::new(&mut z, rows, config.dim)?)?;
    }
    if config.normalize {
        let raw = z.clone();
        ops::normalize(cpu, MatRef::new(&raw, rows, config.dim)?, MatMut::new(&mut z, rows, config.dim)?, None)?;
    }
    Ok(Some(z))
}
