//! The ops on a GPU: timed by events around a captured graph's replays, and checked against the CPU.

use cudarc::driver::sys::{CUevent, CUevent_flags, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaSlice, DevicePtr, DriverError};
use serde_json::{Value, json};
use vq_kernels::cuda::ops::ema::{DeviceActivity, DeviceStatistics, observe_scratch_len, update_means};
use vq_kernels::cuda::quantizer::DeviceQuantizer;
use vq_kernels::cuda::{Device, DeviceMatMut, DeviceMatRef, DeviceMut, DeviceRef, PackedDeviceCodebook, Stream, ops};
use vq_kernels::ops::Search;
use vq_kernels::quantizer::{Config, Initial, Learner, Quantizer};
use vq_kernels::rng::Rng;
use vq_kernels::{Cpu, MatRef, Metric, PackedCodebook};

use crate::cases::{DECAY, INPUTS, Size, normal, unit_rows};
use crate::common::Failure;
use crate::common::failure::Context;
use crate::{Op, Options};

/// Calls before the clock starts.
const WARM: usize = 5;
/// Rows whose codes are compared with the CPU's.
const CHECKED: usize = 2048;

/// Measures `options.op` on device `ordinal`: one line of JSON.
pub fn measure(options: &Options, size: Size, ordinal: usize, way: Search) -> Result<Value, Failure> {
    let device = Device::probe(ordinal).context(|| format!("--device cuda:{ordinal}"))?;
    device.load().context(|| "cannot load the kernels".to_owned())?;
    let stream = device.stream().context(|| "cannot make a stream".to_owned())?;
    let mut bench = Bench { stream, memory: Vec::new() };
    let (samples, wrong) = match options.op {
        Op::Search => bench.search(size, way, options.repeat)?,
        Op::Project => (bench.project(size, options.repeat)?, None),
        Op::Normalize => (bench.normalize(size, options.repeat)?, None),
        Op::Ema => (bench.ema(size, options.collapsed, options.repeat)?, None),
        Op::Step => (bench.step(size, options.repeat)?, None),
        op => return Err(Failure::new(format!("--op {op:?}: not measured on a device"))),
    };
    bench.stream.check().context(|| "the device refused".to_owned())?;
    let name = device.context().name().map_err(|error| Failure::new(format!("{error}")))?;
    Ok(json!({
        "device": name, "op": options.op.name(), "rows": size.rows, "codes": size.codes, "dim": size.dim,
        "search": format!("{way:?}").to_lowercase(), "metric": size.metric.name(),
        "median_ms": samples[samples.len() / 2], "min_ms": samples[0], "wrong": wrong,
    }))
}

/// Time between two events that have passed, by the call that all drivers have; cudarc's is of CUDA 12.8, and it panics where
/// a driver is older.
fn elapsed_ms(start: CUevent, end: CUevent) -> Result<f64, Failure> {
    const NAME: &str = "cuEventElapsedTime";
    type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    let missing = |error| Failure::new(format!("{NAME}: {error}"));
    let names: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
    // SAFETY: the driver, which is loaded already.
    let found = names.iter().find_map(|name| unsafe { libloading::Library::new(*name) }.ok());
    let driver = found.ok_or_else(|| Failure::new("no driver is loaded"))?;
    // SAFETY: a call of that type, by the driver's documentation.
    let elapsed = unsafe { driver.get::<Elapsed>(NAME) }.map_err(missing)?;
    let mut milliseconds = 0.0;
    // SAFETY: a place for the result, and events that their owners keep.
    unsafe { elapsed(&mut milliseconds, start, end) }
        .result()
        .map_err(|error: DriverError| Failure::new(format!("{NAME}: {error}")))?;
    Ok(milliseconds.into())
}

/// Milliseconds of a call, ascending.
type Samples = Vec<f64>;

struct Bench {
    stream: Stream,
    memory: Vec<CudaSlice<u8>>,
}

impl Bench {
    /// A buffer, zeroed. Views are by address, so that no events come into a captured graph.
    fn room<T>(&mut self, len: usize) -> Result<DeviceMut<'static, T>, Failure> {
        let bytes = len.saturating_mul(size_of::<T>()).max(1);
        let buffer = self.stream.raw().alloc_zeros::<u8>(bytes).map_err(|error| Failure::new(format!("{error}")))?;
        let address = buffer.device_ptr(self.stream.raw()).0;
        self.memory.push(buffer);
        // SAFETY: the buffer is kept as long as the benchmark, and nobody else has its address.
        Ok(unsafe { DeviceMut::from_raw(address, len) })
    }

    fn upload<T: bytemuck::Pod>(&mut self, data: &[T]) -> Result<DeviceRef<'static, T>, Failure> {
        let mut room = self.room::<T>(data.len())?;
        self.stream.write(&mut room, data)?;
        // SAFETY: as in `room`; nobody writes it from now on.
        Ok(unsafe { DeviceRef::from_raw(room.address(), room.len()) })
    }

    fn read<T: bytemuck::Pod + Default>(&self, view: &DeviceMut<T>) -> Result<Vec<T>, Failure> {
        let mut data = vec![T::default(); view.len()];
        self.stream.read(&view.as_ref(), &mut data)?;
        Ok(data)
    }

    /// Replays of one call, captured as a graph.
    fn time(&self, repeat: usize, mut call: impl FnMut(&Stream) -> vq_kernels::Result<()>) -> Result<Samples, Failure> {
        let driver = |error| Failure::new(format!("{error}"));
        for _ in 0..WARM {
            call(&self.stream).context(|| "the op".to_owned())?;
        }
        let raw = self.stream.raw();
        raw.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(driver)?;
        let called = call(&self.stream);
        let graph = raw.end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        called.context(|| "the op, captured".to_owned())?;
        let graph = graph.map_err(driver)?.ok_or_else(|| Failure::new("nothing was captured"))?;
        for _ in 0..WARM {
            graph.launch().map_err(driver)?;
        }
        let mut samples = Vec::with_capacity(repeat);
        for _ in 0..repeat {
            let start = raw.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(driver)?;
            graph.launch().map_err(driver)?;
            let end = raw.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(driver)?;
            end.synchronize().map_err(driver)?;
            samples.push(elapsed_ms(start.cu_event(), end.cu_event())?);
        }
        samples.sort_by(f64::total_cmp);
        Ok(samples)
    }

    fn search(&mut self, size: Size, way: Search, repeat: usize) -> Result<(Samples, Option<f64>), Failure> {
        let Size { rows, codes, dim, metric, .. } = size;
        let cpu = Cpu::new();
        let (x, values) = (unit_rows(&cpu, size.seed, 0, rows, dim)?, unit_rows(&cpu, size.seed, 1, codes, dim)?);
        let (device_x, book) = (self.mat(&x, rows, dim)?, self.packed(&values, codes, dim, metric)?);
        let mut found = self.room::<u32>(rows)?;
        let mut workspace = self.room(ops::search_workspace_len(&self.stream, rows, &book))?;
        let samples = self.time(repeat, |stream| {
            ops::search(stream, &device_x, None, &book, &mut found, None, way, &mut workspace)
        })?;
        let checked = rows.min(CHECKED);
        let mut expected = vec![0u32; checked];
        let packed = PackedCodebook::new(MatRef::new(&values, codes, dim)?, metric)?;
        let x = MatRef::new(&x, rows, dim)?.rows_from(0, checked);
        vq_kernels::ops::search(&cpu, x, None, &packed, &mut expected, None)?;
        let wrong = self.read(&found)?.iter().zip(&expected).filter(|(a, b)| a != b).count();
        Ok((samples, Some(wrong as f64 / checked as f64)))
    }

    fn project(&mut self, size: Size, repeat: usize) -> Result<Samples, Failure> {
        let Size { rows, dim, .. } = size;
        let x = self.mat(&normal(size.seed, 0, rows, INPUTS)?, rows, INPUTS)?;
        let weight = self.mat(&normal(size.seed, 1, dim, INPUTS)?, dim, INPUTS)?;
        let (mut z, mut unit) = (self.mat_room(rows, dim)?, self.mat_room(rows, dim)?);
        let mut norms = self.room(rows)?;
        self.time(repeat, |stream| {
            ops::project_normalize(stream, &x, &weight, None, &mut z, &mut unit, Some(&mut norms))
        })
    }

    fn normalize(&mut self, size: Size, repeat: usize) -> Result<Samples, Failure> {
        let x = self.mat(&normal(size.seed, 0, size.rows, size.dim)?, size.rows, size.dim)?;
        let mut y = self.mat_room(size.rows, size.dim)?;
        self.time(repeat, |stream| ops::normalize(stream, &x, &mut y, None))
    }

    /// `collapsed`: onto two codes, one row to each in turn, so that no two neighbours can be added up first.
    fn ema(&mut self, size: Size, collapsed: bool, repeat: usize) -> Result<Samples, Failure> {
        let Size { rows, codes, dim, .. } = size;
        let x = self.mat(&unit_rows(&Cpu::new(), size.seed, 0, rows, dim)?, rows, dim)?;
        let mut rng = Rng::new(size.seed, 2);
        let two = |row: usize| (row % 2).min(codes - 1) as u32;
        let hits: Vec<u32> =
            (0..rows).map(|row| if collapsed { two(row) } else { rng.below(codes as u64) as u32 }).collect();
        let hits = self.upload(&hits)?;
        let mut mean = self.mat_room(codes, dim)?;
        let mut direction = self.mat_room(codes, dim)?;
        let (weights, sums) = (self.room(codes)?, self.room(codes * dim)?);
        let mut statistics = DeviceStatistics::new_in(&self.stream, weights, sums, dim, 0)?;
        let (n, a, seen, all) = (self.room(codes)?, self.room(codes)?, self.room(codes)?, self.room(1)?);
        let mut activity = DeviceActivity::new_in(&self.stream, n, a, seen, all)?;
        let mut scratch = self.room(observe_scratch_len())?;
        self.time(repeat, |stream| {
            statistics.clear(stream, 0)?;
            statistics.accumulate(stream, &x, &hits, None, None)?;
            {
                let sizes = activity.cluster_size.as_ref();
                update_means(stream, DECAY, &statistics, &sizes, &mut mean, Some(&mut direction))?;
            }
            activity.observe(stream, DECAY, &statistics, &mut scratch)
        })
    }

    /// Not factorized, EMA, restart; the head's gradient is 0.
    fn step(&mut self, size: Size, repeat: usize) -> Result<Samples, Failure> {
        let Size { rows, codes, dim, .. } = size;
        let config = Config {
            inputs: dim,
            dim,
            codes,
            factorize: false,
            learner: Learner::Ema,
            decay: DECAY,
            ..Config::default()
        };
        let memory = self.room(DeviceQuantizer::memory_len(&self.stream, &config, rows)?)?;
        let mut quantizer = DeviceQuantizer::new(&self.stream, config, rows, memory)?;
        quantizer.upload(&self.stream, &Quantizer::new(config, Initial::Normal)?)?;
        let x = self.mat(&normal(size.seed, 0, rows, dim)?, rows, dim)?;
        self.time(repeat, |stream| quantizer.train_step(stream, &x, None, |_, _, _| Ok(())))
    }

    fn mat(&mut self, data: &[f32], rows: usize, cols: usize) -> Result<DeviceMatRef<'static>, Failure> {
        Ok(DeviceMatRef::new(self.upload(data)?, rows, cols)?)
    }

    fn mat_room(&mut self, rows: usize, cols: usize) -> Result<DeviceMatMut<'static>, Failure> {
        Ok(DeviceMatMut::new(self.room(rows * cols)?, rows, cols)?)
    }

    fn packed(
        &mut self,
        values: &[f32],
        codes: usize,
        dim: usize,
        metric: Metric,
    ) -> Result<PackedDeviceCodebook<'static>, Failure> {
        let storage = self.room(PackedDeviceCodebook::storage_len(codes, dim, metric)?)?;
        let values = self.mat(values, codes, dim)?;
        Ok(PackedDeviceCodebook::pack(&self.stream, values, metric, storage)?)
    }
}
