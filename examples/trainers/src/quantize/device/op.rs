//! The op's passes on burn's CUDA tensors.

use std::sync::Arc;

use burn::tensor::{DType, IntDType, Tensor, TensorData};
use vq_kernels::cuda::DeviceMatMut;
use vq_kernels::quantizer::{Loss, Report};
use vq_kernels::{Error, Result};

use super::super::{Claim, Pass, QuantizeBackend, VectorQuantizer};
use super::memory::{Cuda, Rows, copy, floats, floats_mut, ints, ints_mut, room, room_for_codes, wait_for_burn};
use super::{Passed, Resident};

/// Rows that are encoded at a time where no pass has asked for room yet.
const ENCODED: usize = 8192;

/// A backward whose pass is over.
const OUT_OF_TURN: Error = Error::Order { op: "backward", expected: "its forward, and no other call since," };

impl QuantizeBackend for Cuda {
    fn pass(quantizer: &VectorQuantizer, rows: Tensor<Self, 2>) -> Result<Pass<Self>> {
        let ([n, _], device) = (rows.dims(), rows.device());
        Resident::of(&mut quantizer.lock(), &device, n, n)?.pass(rows)
    }

    fn pass_back(
        quantizer: &VectorQuantizer,
        claim: &Claim,
        rows: Tensor<Self, 2>,
        packed: Tensor<Self, 1>,
    ) -> Tensor<Self, 2> {
        let (shape, device) = (rows.dims(), rows.device());
        let mut shared = quantizer.lock();
        let found = Resident::found(&mut shared).ok_or(OUT_OF_TURN).and_then(|there| {
            there.pass_back(claim, packed).inspect_err(|failed| {
                // Another pass than the one that is there leaves that one alone.
                if !matches!(failed, Error::Order { .. }) {
                    there.pass = None;
                }
            })
        });
        found.unwrap_or_else(|failed| {
            shared.failed = Some(failed);
            Tensor::from_data(TensorData::full(shape, f32::NAN), (&device, DType::F32))
        })
    }

    fn encode(quantizer: &VectorQuantizer, rows: Tensor<Self, 2>) -> Result<Vec<u32>> {
        let ([n, _], device) = (rows.dims(), rows.device());
        // Rows go in parts: whatever fits there is enough.
        Resident::of(&mut quantizer.lock(), &device, 1, n.min(ENCODED))?.encode(rows)
    }

    fn decode(quantizer: &VectorQuantizer, codes: &[u32], device: &Self::Device) -> Result<Tensor<Self, 2>> {
        Resident::of(&mut quantizer.lock(), device, 1, codes.len().min(ENCODED))?.decode(codes)
    }
}

impl Resident {
    fn pass(&mut self, rows: Tensor<Cuda, 2>) -> Result<Pass<Cuda>> {
        self.pass = None;
        self.codes.clear();
        self.restarted.clear();
        let rows = Rows::of(rows);
        let elements = rows.n * rows.inputs;
        let (packed, codes) = (room(elements + 2, &self.device), room_for_codes(rows.n, &self.device));
        let _fence = self.fence();
        let mut report = Report::default();
        let mut to = floats_mut(&packed)?;
        if rows.n > 0 {
            let (x, mut codes) = (rows.view()?, ints_mut(&codes)?);
            wait_for_burn(&self.device)?;
            self.quantizer.forward(&self.stream, &x, None)?;
            copy(&self.stream, &self.quantizer.last_output(), &mut to.range(0, elements))?;
            copy(&self.stream, &self.quantizer.last_codes(), &mut codes)?;
            report = self.report()?;
            self.codes.resize(rows.n, 0);
            self.stream.read(&self.quantizer.last_codes(), &mut self.codes)?;
        } else {
            wait_for_burn(&self.device)?;
        }
        let terms = [report.loss.codebook as f32, report.loss.commitment as f32];
        self.stream.write(&mut to.range(elements, 2), &terms)?;
        drop(to);
        let claim = Arc::default();
        self.pass = Some(Passed { claim: Arc::clone(&claim), rows, codes });
        Ok(Pass { packed, codes: self.codes.clone(), report, claim: Claim(claim) })
    }

    /// From the gradient at what [`pass`](Self::pass) packed to that at the rows, `[n, inputs]`.
    fn pass_back(&mut self, claim: &Claim, packed: Tensor<Cuda, 1>) -> Result<Tensor<Cuda, 2>> {
        let of_it = self.pass.as_ref().filter(|pass| Arc::ptr_eq(&pass.claim, &claim.0));
        let Passed { rows, codes, .. } = of_it.ok_or(OUT_OF_TURN)?;
        let (n, inputs) = (rows.n, rows.inputs);
        let (elements, gradient) = (n * inputs, room(n * inputs, &self.device));
        if n == 0 {
            return Ok(gradient.reshape([n, inputs]));
        }
        let mut terms = [0.0_f32; 2];
        {
            let _fence = self.fence();
            let (x, from, mut to) = (rows.view()?, floats(&packed)?, floats_mut(&gradient)?);
            wait_for_burn(&self.device)?;
            self.stream.read(&from.range(elements, 2), &mut terms)?;
            // Derivatives by the terms that are not finite move no codes, and show at the rows, where the caller looks.
            let weighed = if finite(terms) { terms.map(f64::from) } else { [0.0; 2] };
            let weighed = Loss { codebook: weighed[0], commitment: weighed[1] };
            self.quantizer.backward(&self.stream, &x, None, weighed, |stream, output| {
                copy(stream, &from.range(0, elements), &mut output.data())
            })?;
            copy(&self.stream, &self.quantizer.last_input_gradient(), &mut to)?;
            self.stream.check()?;
        }
        // The kernels drop what is not finite; here it must reach whoever looks for an overflow, at rows that have a code.
        let at_output = packed.slice(0..elements).reshape([n, inputs]);
        let coded = codes.clone().not_equal_elem(-1).reshape([n, 1]);
        let wild = match finite(terms) {
            true => (at_output * 0.0).sum_dim(1).is_nan().bool_and(coded),
            false => coded,
        };
        Ok(gradient.reshape([n, inputs]).mask_fill(wild.expand([n, inputs]), f32::NAN))
    }

    fn encode(&mut self, rows: Tensor<Cuda, 2>) -> Result<Vec<u32>> {
        self.pass = None;
        let rows = Rows::of(rows);
        let codes = room_for_codes(rows.n, &self.device);
        let mut numbers = vec![0; rows.n];
        if rows.n > 0 {
            let _fence = self.fence();
            let (x, mut to) = (rows.view()?, ints_mut(&codes)?);
            wait_for_burn(&self.device)?;
            self.quantizer.encode(&self.stream, &x, None, &mut to)?;
            self.stream.read(&to.as_ref(), &mut numbers)?;
            self.stream.check()?;
        }
        Ok(numbers)
    }

    fn decode(&mut self, codes: &[u32]) -> Result<Tensor<Cuda, 2>> {
        self.pass = None;
        let (n, inputs) = (codes.len(), self.quantizer.config().inputs);
        let output = room(n * inputs, &self.device);
        if n > 0 {
            let codes: Vec<i32> = codes.iter().map(|&code| code as i32).collect();
            let codes = Tensor::from_data(TensorData::new(codes, [n]), (&self.device, IntDType::I32.into()));
            let _fence = self.fence();
            let (from, mut to) = (ints(&codes)?, DeviceMatMut::new(floats_mut(&output)?, n, inputs)?);
            wait_for_burn(&self.device)?;
            self.quantizer.decode(&self.stream, &from, &mut to)?;
            self.stream.check()?;
        }
        Ok(output.reshape([n, inputs]))
    }
}

fn finite(terms: [f32; 2]) -> bool {
    terms.iter().all(|term| term.is_finite())
}
