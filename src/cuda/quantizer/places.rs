//! Where everything of a quantizer lies in its memory.

use super::report::REPORT_WORDS;
use crate::cuda::arena::{Layout, Place};
use crate::cuda::codebook::PackedDeviceCodebook;
use crate::cuda::ops::ema::observe_scratch_len;
use crate::cuda::ops::loss::squared_error_workspace_len;
use crate::cuda::ops::restart::{DeviceRestarted, restart_scratch_len};
use crate::cuda::ops::{project_backward_weight_workspace_len, search_room};
use crate::cuda::queue::Queue;
use crate::error::Result;
use crate::ops::ROW_BLOCK;
use crate::quantizer::{Config, Learner};

/// Hit codes whose sources are handled at a time: whole blocks of rows, as on the CPU.
pub(super) const SOURCES: usize = 8 * ROW_BLOCK;

/// Weight, bias and their gradients of a linear layer.
#[derive(Clone, Copy)]
pub(super) struct LinearPlaces {
    pub weight: Place<f32>,
    pub bias: Place<f32>,
    pub dweight: Place<f64>,
    pub dbias: Place<f64>,
    pub outputs: usize,
    pub inputs: usize,
}

/// What the configuration does not need has no elements.
#[derive(Clone, Copy)]
pub(super) struct Places {
    // -- state
    pub codebook: Place<f32>,
    pub latent: Place<f32>,
    pub source: Place<f32>,
    pub project_in: LinearPlaces,
    pub project_out: LinearPlaces,
    pub projector: LinearPlaces,
    pub cluster_size: Place<f32>,
    pub exposure: Place<f32>,
    pub last_seen: Place<f64>,
    pub rows_seen: Place<f64>,
    pub step: Place<u64>,
    // -- of a step
    pub packed: Place<u32>,
    pub code_weights: Place<i64>,
    pub code_sums: Place<i64>,
    pub exponent: Place<i32>,
    pub z: Place<f32>,
    pub unit: Place<f32>,
    pub norms: Place<f32>,
    pub codes: Place<u32>,
    pub quantized: Place<f32>,
    pub output: Place<f32>,
    pub doutput: Place<f32>,
    pub dquantized: Place<f32>,
    pub dz: Place<f32>,
    pub dx: Place<f32>,
    pub codebook_total: Place<f64>,
    pub commitment_total: Place<f64>,
    pub scale: Place<f32>,
    pub active: Place<u32>,
    pub restarted: Place<DeviceRestarted>,
    pub summary: Place<u32>,
    pub parts: Place<u64>,
    pub words: Place<u64>,
    // -- gradients of codes
    pub numbers: Place<u32>,
    pub hits: Place<u32>,
    pub code_gradients: Place<f32>,
    pub code_rows: Place<f32>,
    pub code_units: Place<f32>,
    pub code_norms: Place<f32>,
    pub sources: Place<f32>,
    // -- scratch of one op at a time
    pub search: Place<u8>,
    pub floats: Place<f32>,
    pub observed: Place<u64>,
    pub restart: Place<u32>,
}

impl Places {
    pub fn of(queue: &impl Queue, config: &Config, rows: usize) -> Result<(Self, usize)> {
        let (k, dim, inputs) = (config.codes, config.dim, config.inputs);
        let mut layout = Layout::default();
        let mut linear = |there: bool, outputs: usize, inputs: usize| {
            let mut place = |n: usize| layout.place(if there { n } else { 0 });
            let (weight, bias) = (place(outputs.saturating_mul(inputs)), place(outputs));
            let (dweight, dbias) = (layout.place(weight.len), layout.place(bias.len));
            LinearPlaces { weight, bias, dweight, dbias, outputs, inputs }
        };
        let source_dim = match config.learner {
            Learner::Projector { source_dim } => source_dim,
            _ => 0,
        };
        let projects = source_dim > 0;
        let (project_in, project_out) = (linear(config.factorize, dim, inputs), linear(config.factorize, inputs, dim));
        let projector = linear(projects, dim, source_dim);
        // Codes that have a gradient of their own.
        let hits = if projects || config.learner == Learner::Gradient { rows.min(k) } else { 0 };
        let through_norm = if config.normalize { hits } else { 0 };
        let has_latent = config.normalize && matches!(config.learner, Learner::Ema | Learner::Gradient);
        let restarts = config.restart.is_some();
        let blocks = rows.div_ceil(ROW_BLOCK).max(1);
        let gradient_room = [project_in, project_out, projector].into_iter().map(|linear| match linear.weight.len {
            0 => 0,
            // The projector's rows are the hit codes.
            _ => project_backward_weight_workspace_len(rows.max(SOURCES), linear.inputs, linear.outputs),
        });
        let floats = gradient_room.fold(squared_error_workspace_len(rows), usize::max);
        let mut some =
            |there: bool, n: usize, width: usize| layout.place(if there { n.saturating_mul(width) } else { 0 });
        let places = Self {
            project_in,
            project_out,
            projector,
            codebook: some(true, k, dim),
            latent: some(has_latent, k, dim),
            source: some(projects, k, source_dim),
            z: some(config.factorize, rows, dim),
            unit: some(true, rows, dim),
            quantized: some(true, rows, dim),
            output: some(config.factorize, rows, inputs),
            doutput: some(true, rows, inputs),
            dquantized: some(true, rows, dim),
            dz: some(true, rows, dim),
            dx: some(config.factorize, rows, inputs),
            code_gradients: some(true, hits, dim),
            code_rows: some(true, through_norm, dim),
            code_units: some(true, through_norm.max(if projects { SOURCES } else { 0 }), dim),
            sources: some(projects, hits.min(SOURCES), source_dim),
            cluster_size: layout.place(k),
            exposure: layout.place(k),
            last_seen: layout.place(k),
            rows_seen: layout.place(1),
            step: layout.place(1),
            packed: layout.place(PackedDeviceCodebook::storage_len(k, dim, config.metric())?),
            code_weights: layout.place(k),
            code_sums: layout.place(k.saturating_mul(dim)),
            exponent: layout.place(1),
            norms: layout.place(rows),
            codes: layout.place(rows),
            codebook_total: layout.place(2),
            commitment_total: layout.place(2),
            scale: layout.place(1),
            active: layout.place(1),
            restarted: layout.place(if restarts { rows.min(k) } else { 0 }),
            summary: layout.place(2),
            parts: layout.place(2 * blocks),
            words: layout.place(REPORT_WORDS),
            numbers: layout.place(if hits > 0 { k } else { 0 }),
            hits: layout.place(hits),
            code_norms: layout.place(through_norm),
            search: layout.place(search_room(queue, rows, dim)),
            floats: layout.place(floats),
            observed: layout.place(observe_scratch_len()),
            restart: layout.place(if restarts { restart_scratch_len(rows, k) } else { 0 }),
        };
        Ok((places, layout.end))
    }
}
