//! Codebooks of made-up pictures and a made-up encoder: totals, resuming at every stage, bad input, the file.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::fs;
use std::path::{Path, PathBuf};

use trainers::codebook::{Figures, Grid, Grouping, Job, Patches, Pictures, Stage, build, hash_of, load};
use trainers::common::Failure;
use trainers::common::processor::Processor;
use trainers::common::random::SplitMix64;
use trainers::common::tensors::{SafetensorsFile, Tensor, write_safetensors};

/// Side of a view, and of the grid of its patches.
const SIDE: usize = 32;
const WIDTH: usize = 4;

/// A patch is a pixel; its features are its colour, and red times green.
#[derive(Default)]
struct Colours {
    calls: AtomicUsize,
    /// What the last feature of all is replaced by.
    poison: Option<f32>,
    short: bool,
}

impl Patches for Colours {
    fn name(&self) -> String {
        "colours".into()
    }

    fn fingerprint(&self) -> String {
        "1".into()
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn input_size(&self) -> usize {
        SIDE
    }

    fn features(&self, images: Vec<f32>, batch: usize) -> Result<Grid, Failure> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        assert_eq!(images.len(), batch * 3 * SIDE * SIDE);
        let mut values = Vec::new();
        for image in images.chunks_exact(3 * SIDE * SIDE) {
            values.extend_from_slice(image);
            let (red, green) = image[..2 * SIDE * SIDE].split_at(SIDE * SIDE);
            values.extend(red.iter().zip(green).map(|(r, g)| r * g));
        }
        if let (Some(last), Some(poison)) = (values.last_mut(), self.poison) {
            *last = poison;
        }
        values.truncate(values.len() - usize::from(self.short));
        Ok(Grid { values, height: SIDE, columns: SIDE })
    }
}

/// Pictures of random colours, in folders of three.
struct Noise {
    names: Vec<String>,
    /// Colours are rounded to multiples of 1/levels.
    levels: f32,
}

impl Noise {
    fn new(count: usize, levels: f32) -> Self {
        // Not in order, as from an archive.
        let names = (0..count).rev().map(|i| format!("class{}/{i}.png", i / 3)).collect();
        Self { names, levels }
    }
}

impl Pictures for Noise {
    fn about(&self) -> String {
        format!("{} of noise", self.names.len())
    }

    fn fingerprint(&self) -> String {
        format!("{:?} {}", self.names, self.levels)
    }

    fn count(&self) -> usize {
        self.names.len()
    }

    fn name(&self, picture: usize) -> &str {
        &self.names[picture]
    }

    fn group(&self, picture: usize) -> &str {
        self.names[picture].rsplit_once('/').map_or(&self.names[picture], |(folder, _)| folder)
    }

    fn view(&self, picture: usize, view: usize, size: usize, seed: u64) -> Vec<f32> {
        let mut random = SplitMix64::new(seed ^ trainers::common::random::hash_name(&self.names[picture], view as u64));
        (0..3 * size * size).map(|_| (random.uniform(-1.0, 1.0) * self.levels).round() / self.levels).collect()
    }
}

/// A job with everything at hand; tests change what they are about.
struct Bench {
    folder: tempfile::TempDir,
    encoder: Colours,
    pictures: Noise,
    processor: Processor,
}

const NEVER: &(dyn Fn(Stage) -> Result<(), Failure> + Sync) = &|_| Ok(());

impl Bench {
    fn new(pictures: usize, levels: f32) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            encoder: Colours::default(),
            pictures: Noise::new(pictures, levels),
            processor: Processor::new("auto", 2).expect("two threads"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn job<'a>(&'a self, out: &'a Path) -> Job<'a> {
        Job {
            encoder: &self.encoder,
            pictures: &self.pictures,
            processor: &self.processor,
            out,
            features: None,
            pool: 4,
            crops: 1,
            codes: 50,
            group: Grouping::Image,
            iterations: 3,
            seed: 1,
            resume: false,
            watch: NEVER,
        }
    }

    fn refusal(&self, change: impl FnOnce(&mut Job<'_>)) -> String {
        let out = self.path("refused.safetensors");
        let mut job = self.job(&out);
        change(&mut job);
        let failure = build(&job).expect_err("a refusal").to_string();
        assert!(!out.exists(), "{failure}");
        failure
    }
}

fn group_codes(path: &Path) -> Vec<u32> {
    SafetensorsFile::open(path).and_then(|mut file| file.read("group_codes")).expect("group_codes")
}

/// All vectors of a folder of features, and the mean squared distance from the nearest of `centres`.
fn inertia(folder: &Path, centres: &[f32]) -> f64 {
    let (mut sum, mut rows) = (0.0, 0);
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let values: Vec<f32> =
                SafetensorsFile::open(&path).and_then(|mut file| file.read("features")).expect("f32");
            for row in values.chunks_exact(WIDTH) {
                let distance =
                    |c: &[f32]| row.iter().zip(c).map(|(&x, &c)| (f64::from(x) - f64::from(c)).powi(2)).sum::<f64>();
                sum += centres.chunks_exact(WIDTH).map(distance).fold(f64::INFINITY, f64::min);
                rows += 1;
            }
        }
    }
    sum / f64::from(rows)
}

#[test]
fn totals_are_exact_for_every_grouping() {
    let bench = Bench::new(7, 50.0);
    let out = bench.path("a.safetensors");
    for (group, codes, groups) in
        [(Grouping::Class, 100, 3), (Grouping::Image, 100, 7), (Grouping::Joint, 100, 1), (Grouping::Image, 3, 7)]
    {
        let built = build(&Job { group, codes, ..bench.job(&out) }).expect("a codebook");
        let centres = load(&out).expect("its file");
        assert_eq!((centres.codes, centres.dim, &centres.hash), (codes, WIDTH, &built.hash), "{group:?}");
        let shares = group_codes(&out);
        assert_eq!((shares.len(), shares.iter().sum::<u32>() as usize), (groups, codes), "{group:?}");
        if group == Grouping::Class {
            assert_eq!(shares, [43, 43, 14], "classes of 3, 3 and 1 pictures");
        }
        let figures = centres.about.expect("what it is").figures;
        assert_eq!((figures.vectors, figures.groups), (7 * 64, groups));
        assert_eq!(figures.groups_without_codes, groups.saturating_sub(codes));
        assert!(!bench.path("a.safetensors.work").exists());
    }
}

#[test]
fn centres_are_as_near_as_the_figures_tell() {
    let bench = Bench::new(40, 1000.0);
    let (out, kept) = (bench.path("a.safetensors"), bench.path("kept"));
    let mut last = f64::INFINITY;
    for iterations in [1, 2, 8] {
        // 40,960 vectors: too many for memory, so that every pass reads them.
        let job = Job { features: Some(&kept), pool: 1, group: Grouping::Joint, iterations, ..bench.job(&out) };
        let Figures { inertia: told, variance, mean_norm, .. } = build(&job).expect("a codebook").about.figures;
        let found = inertia(&kept, &load(&out).expect("its file").values);
        assert!(
            found <= told && told < last,
            "{iterations} passes: {found} after the last, {told} in it, {last} before"
        );
        // Uniform colours: variance 1/3 of each, 1/9 of the product.
        assert!((variance - 10.0 / 9.0).abs() < 0.01 && (1.0..1.1).contains(&mean_norm), "{variance} {mean_norm}");
        last = told;
    }
    assert!(last < 0.12, "50 centres of a cube leave little: {last}");
}

/// Runs `job` to its end, stopped wherever `due` says, and resumed; gives the number of stops.
///
/// `due` gets a run's number, and how many durable stages and how many others it has reported before this one.
fn run_stopped(job: Job<'_>, due: impl Fn(usize, Stage, [usize; 2]) -> bool + Sync) -> usize {
    for run in 0..1000 {
        let counts = [const { AtomicUsize::new(0) }; 2];
        let watch = |stage: Stage| {
            let before = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
            counts[usize::from(stage == Stage::Batch)].fetch_add(1, Ordering::Relaxed);
            if due(run, stage, before) { Err(Failure::new("stopped")) } else { Ok(()) }
        };
        match build(&Job { resume: run > 0, watch: &watch, ..job }) {
            Ok(_) => return run,
            Err(failure) => assert_eq!(failure, Failure::new("stopped")),
        }
    }
    panic!("it comes to an end");
}

#[test]
fn stopped_anywhere_and_resumed_it_is_the_same_file() {
    for (group, pool, pictures) in [(Grouping::Image, 1, 34), (Grouping::Joint, 1, 34), (Grouping::Class, 4, 8)] {
        let bench = Bench::new(pictures, 8.0);
        let out = bench.path("whole.safetensors");
        let job = Job { group, pool, codes: 300, ..bench.job(&out) };
        build(&job).expect("a codebook");
        let whole = fs::read(&out).expect("its bytes");
        let out = bench.path("cut.safetensors");
        let job = Job { out: &out, ..job };
        let same = |what: &str| {
            assert!(fs::read(&out).expect("its bytes") == whole, "{group:?} stopped {what}");
            assert!(!bench.path("cut.safetensors.work").exists());
            fs::remove_file(&out).expect("a file to remove");
        };
        let mut stages = 0;
        while run_stopped(job, |run, stage, [durable, _]| run == 0 && stage != Stage::Batch && durable == stages) > 0 {
            same(&format!("after stage {stages}"));
            stages += 1;
        }
        same("never");
        assert!(stages >= 4, "{group:?} has {stages} stages");
        for moment in [1, 5, 40] {
            run_stopped(job, |run, stage, [_, batches]| run == 0 && stage == Stage::Batch && batches == moment);
            same(&format!("in the middle, at moment {moment}"));
        }
        let stops = run_stopped(job, |_, stage, _| !matches!(stage, Stage::Batch | Stage::Written));
        assert_eq!(stops, stages - 1, "every run gets one stage further");
        same("after every stage");
    }
}

#[test]
fn threads_do_not_matter() {
    let bench = Bench::new(6, 30.0);
    let (one, two) = (bench.path("one.safetensors"), bench.path("two.safetensors"));
    let single = Processor::new("auto", 1).expect("a thread");
    build(&Job { processor: &single, ..bench.job(&one) }).expect("a codebook");
    build(&bench.job(&two)).expect("a codebook");
    assert!(fs::read(one).expect("bytes") == fs::read(two).expect("bytes"));
}

#[test]
fn kept_features_serve_other_codebooks_and_a_finished_one_is_left_alone() {
    let bench = Bench::new(6, 30.0);
    let (out, other, kept) = (bench.path("a.safetensors"), bench.path("b.safetensors"), bench.path("kept"));
    let calls = || bench.encoder.calls.swap(0, Ordering::Relaxed);
    let job = Job { features: Some(&kept), ..bench.job(&out) };
    let built = build(&job).expect("a codebook");
    assert!(calls() > 1);
    build(&Job { out: &other, codes: 20, group: Grouping::Joint, ..job }).expect("another");
    assert_eq!(calls(), 1, "the encoder is asked for its grid only");
    let alone = bench.path("c.safetensors");
    build(&Job { out: &alone, features: None, ..job }).expect("a codebook");
    assert!(fs::read(alone).expect("bytes") == fs::read(&out).expect("bytes"), "kept or not, the same");
    calls();

    let again = build(&Job { features: None, resume: true, ..job }).expect("the finished one");
    assert_eq!((again.hash, again.seconds, calls()), (built.hash, None, 1));
    let failure = build(&Job { pool: 2, ..job }).expect_err("other features").to_string();
    assert!(failure.contains("kept") && failure.contains("--features") && failure.contains("its grid is"), "{failure}");
}

#[test]
fn unfinished_work_of_other_settings_is_refused_or_removed() {
    let bench = Bench::new(6, 30.0);
    let out = bench.path("a.safetensors");
    let stop = |stage: Stage| match stage {
        Stage::Block(_) => Err(Failure::new("stopped")),
        _ => Ok(()),
    };
    build(&Job { watch: &stop, ..bench.job(&out) }).expect_err("stopped");
    let work = bench.path("a.safetensors.work");
    fs::write(work.join(".features-000001-of-000001.safetensors.77.x.part"), "half").expect("what a kill leaves");
    let failure = build(&Job { codes: 51, resume: true, ..bench.job(&out) }).expect_err("other settings").to_string();
    assert!(failure.contains("its codes is 50, not 51") && failure.contains("--resume"), "{failure}");
    build(&Job { resume: true, ..bench.job(&out) }).expect("a codebook");
    assert!(!work.exists());

    // A file that is not ours is not removed, nor is the folder around it.
    build(&Job { watch: &stop, ..bench.job(&out) }).expect_err("stopped");
    fs::write(work.join("notes.txt"), "mine").expect("a file");
    build(&Job { codes: 51, ..bench.job(&out) }).expect("a codebook from the start");
    let left: Vec<_> =
        fs::read_dir(&work).expect("the folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, ["notes.txt"]);
}

#[test]
fn damaged_work_is_named() {
    let bench = Bench::new(6, 30.0);
    let out = bench.path("a.safetensors");
    let work = bench.path("a.safetensors.work");
    for (name, bytes, expected) in [
        ("features-000001-of-000001.safetensors", &b"half"[..], "000001.safetensors` is not a sound safetensors file"),
        ("centres-000000.safetensors", b"", "centres-000000.safetensors` is not a sound safetensors file"),
        ("survey.json", b"{", "survey.json` is damaged"),
        ("features.json", b"{}", "holds work of other settings"),
        ("codebook.json", b"[]", "holds work of other settings"),
    ] {
        let stop = |stage: Stage| if stage == Stage::Block(0) { Err(Failure::new("stopped")) } else { Ok(()) };
        build(&Job { watch: &stop, ..bench.job(&out) }).expect_err("stopped");
        fs::write(work.join(name), bytes).expect("damage");
        let failure = build(&Job { resume: true, ..bench.job(&out) }).expect_err(name).to_string();
        assert!(failure.contains(expected), "{failure}");
    }
}

#[test]
fn what_cannot_be_built_is_refused() {
    let bench = Bench::new(3, 1.0);
    assert!(bench.refusal(|job| job.codes = 0).contains("--codes 0"));
    assert!(bench.refusal(|job| job.iterations = 0).contains("--iterations"));
    assert!(bench.refusal(|job| job.crops = 0).contains("--crops"));
    for pool in [0, 33] {
        let failure = bench.refusal(|job| job.pool = pool);
        assert!(failure.contains("32x32 patches") && failure.contains("from 1 to 32"), "{failure}");
    }
    let failure = bench.refusal(|job| job.codes = 193);
    assert!(failure.contains("192 distinct vectors for 193 codes (3 pictures × 1 views × 8x8"), "{failure}");
    assert!(failure.contains("--pool below 4"), "{failure}");
    // Three levels of each colour: 27 distinct vectors in a picture, 81 in three.
    let failure = bench.refusal(|job| (job.codes, job.pool) = (82, 1));
    assert!(
        failure.contains("81 distinct vectors for 82 codes") && failure.contains("--crops than 1, or"),
        "{failure}"
    );
    let out = bench.path("exact.safetensors");
    build(&Job { codes: 81, pool: 1, ..bench.job(&out) }).expect("as many codes as distinct vectors");
    let figures = load(&out).expect("its file").about.expect("what it is").figures;
    assert_eq!((figures.inertia, figures.distinct_codes), (0.0, 27), "each vector is a centre, in each picture");

    let folder = bench.path("");
    assert!(bench.refusal(|job| job.out = Path::new("/")).contains("is a folder"));
    let failure = build(&bench.job(&folder)).expect_err("a folder").to_string();
    assert!(failure.contains("give the name of a file"), "{failure}");
    let none = Bench::new(0, 1.0);
    assert!(none.refusal(|_| ()).contains("at least 1 picture"));
}

#[test]
fn an_encoder_that_misbehaves_is_named() {
    let mut bench = Bench::new(3, 4.0);
    bench.encoder.poison = Some(f32::NAN);
    // The last picture in the order of extraction.
    let failure = bench.refusal(|_| ());
    assert!(failure.contains("`class0/2.png` that is NaN") && failure.contains("colours"), "{failure}");
    bench.encoder = Colours { short: true, ..Colours::default() };
    assert!(bench.refusal(|_| ()).contains("gave 4095 features, expected 4096"));
}

#[test]
fn the_hash_is_the_standard_one() {
    // sha256sum of nothing, and of the bytes 00 00 80 3f 00 00 00 c0.
    assert_eq!(hash_of(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(hash_of(&[1.0, -2.0]), "ee4ac73c2bd27756ab82780f27c73a7bc4d3f0bb6acb37e008bc27eccd7e588b");
    let long: Vec<f32> = (0..200_000).map(|i| i as f32).collect();
    let mut other = long.clone();
    other[199_999] += 1.0;
    assert_ne!(hash_of(&long), hash_of(&other));
}

#[test]
fn only_sound_files_are_loaded() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("c.safetensors");
    let values = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let write = |tensors: &[Tensor<'_>], hash: Option<&str>| {
        let metadata: Vec<_> = hash.map(|hash| ("hash".to_owned(), hash.to_owned())).into_iter().collect();
        write_safetensors(&path, tensors, &metadata).expect("a file");
    };
    write(&[Tensor::new("centres", &[3, 2], &values)], None);
    let centres = load(&path).expect("a file of other origin");
    assert_eq!((centres.codes, centres.dim, centres.about), (3, 2, None));
    assert_eq!((&centres.values[..], centres.hash), (&values[..], hash_of(&values)));
    write(&[Tensor::new("centres", &[3, 2], &values)], Some(&hash_of(&values)));
    let whole = fs::read(&path).expect("bytes");
    load(&path).expect("the right hash");

    let refused = |expected: &str| {
        let failure = load(&path).expect_err(expected).to_string();
        assert!(failure.contains(expected) && failure.contains("c.safetensors"), "{failure}");
    };
    for cut in [0, 7, 100, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).expect("damage");
        refused("not a sound safetensors file");
    }
    let mut flipped = whole;
    let last = flipped.len() - 2;
    flipped[last] ^= 1;
    fs::write(&path, flipped).expect("damage");
    refused("SHA-256");
    write(&[Tensor::new("codebook", &[3, 2], &values)], None);
    refused("no tensor `centres`, only `codebook`");
    write(&[Tensor::new("centres", &[6], &values)], None);
    refused("the shape [6], expected [codes, dim]");
    write(&[Tensor::new("centres", &[1, 3, 2], &values)], None);
    refused("the shape [1, 3, 2]");
    write(&[Tensor::new("centres", &[0, 2], &[0.0_f32; 0])], None);
    refused("expected 1 to");
    write(&[Tensor::new("centres", &[3, 2], &values.map(f64::from))], None);
    refused("holds F64, expected F32");
    for bad in [f32::NAN, f32::INFINITY] {
        write(&[Tensor::new("centres", &[3, 2], &[1.0, 2.0, 3.0, bad, 5.0, 6.0])], None);
        refused(&format!("code 1, dimension 1, is {bad}"));
    }
    fs::remove_file(&path).expect("a file to remove");
    refused("spelt right");
}
