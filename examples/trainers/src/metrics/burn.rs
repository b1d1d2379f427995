//! What burn-train computes: the FID's network, and PSNR, SSIM and MS-SSIM by other hands than ours.
//!
//! Nothing here downloads: `init_pretrained` of burn-train is never called, weights come from a file that the user has. LPIPS is
//! [`crate::losses`]'s.

use std::path::Path;

use burn::data::dataloader::Progress;
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn_train::metric::vision::{
    Fid, FidConfig, MsSsimInput, MsSsimMetric, MsSsimMetricConfig, PsnrInput, PsnrMetric, PsnrMetricConfig, SsimInput,
    SsimMetric, SsimMetricConfig,
};
use burn_train::metric::{Metric, MetricMetadata, Numeric};

use crate::common::failure::{Context, Failure};
use crate::features::Weights;
use crate::params::{HostTensor, host, load, tensors};

/// What Inception-v3 sees, and what it gives.
const INPUT: usize = 299;
const WIDTH: usize = 2048;
/// The window of SSIM.
const WINDOW: usize = 11;

/// Inception-v3 as FID wants it: the network of `pytorch-fid`, whose pooled features are 2,048 wide.
#[derive(Debug)]
pub struct Inception<B: Backend> {
    fid: Fid<B>,
}

impl<B: Backend> Inception<B> {
    /// Loads the weights of `pytorch-fid` (`pt_inception-2015-12-05`), converted to safetensors with their names kept.
    ///
    /// # Errors
    /// Where the file cannot be read, or a tensor is missing or has another shape.
    pub fn load(path: &Path, device: &B::Device) -> Result<Self, Failure> {
        // Its own normalization is that of torchvision's classifier; this network was trained on -1..=1.
        let fid = FidConfig::new().with_normalize(false).init(device);
        // The names are asked for in the order of the module's tensors, whose shapes are these.
        let shapes = tensors(&fid);
        let mut weights = Weights::open(path)?;
        let read = |name: &str| {
            let shape = shapes.get(name).map(|tensor| tensor.shape.clone()).unwrap_or_default();
            let values = weights.values(&published_name(name), &shape)?;
            Ok(HostTensor { shape, values })
        };
        let fid = load(fid, read).context(|| "cannot load Inception-v3 for FID".into())?;
        Ok(Self { fid: fid.no_grad() })
    }

    /// Features `[batch, 2048]` of images `[batch, 3, height, width]` in `-1..=1`: rows for [`super::Frechet`].
    ///
    /// Images become 299 pixels wide and high by bilinear interpolation, as `pytorch-fid` does it; `clean-fid`, which VQGAN-LC reports, resizes
    /// otherwise, and its figures differ a little.
    pub fn features(&self, images: Tensor<B, 4>) -> Vec<f32> {
        let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(false);
        let [_, _, height, width] = images.dims();
        let images = images.clamp(-1.0, 1.0);
        let images = if [height, width] == [INPUT; 2] { images } else { interpolate(images, [INPUT; 2], options) };
        host(self.fid.extract_features(images))
    }

    /// Values of a feature row.
    pub fn width(&self) -> usize {
        WIDTH
    }
}

/// The name that `pytorch-fid` gives a tensor: `extractor.conv2d_1a.bn.gamma` is `Conv2d_1a_3x3.bn.weight`.
fn published_name(name: &str) -> String {
    let name = name.strip_prefix("extractor.").unwrap_or(name);
    let name = match name.split_once('.') {
        Some((block, rest)) => {
            let kernel = match block {
                "conv2d_3b" => "_1x1",
                block if block.starts_with("conv2d") => "_3x3",
                _ => "",
            };
            let capital = block.get(..1).unwrap_or_default().to_uppercase();
            format!("{capital}{}{kernel}.{rest}", block.get(1..).unwrap_or_default())
        }
        None => name.to_owned(),
    };
    name.replace(".gamma", ".weight").replace(".beta", ".bias")
}

/// Mean PSNR over R, G and B of a batch `[batch, 3, height, width]` in `-1..=1`, in dB: that of [`super::Pair::psnr`].
///
/// # Errors
/// Where the shapes differ or there is no image.
pub fn psnr<B: Backend>(images: Tensor<B, 4>, others: Tensor<B, 4>) -> Result<f64, Failure> {
    let [images, others] = shown(images, others, 1)?;
    Ok(value(PsnrMetric::new(PsnrMetricConfig::new(1.0)), &PsnrInput::new(images, others)))
}

/// Mean SSIM of a batch. Windows reach over the border, where there is black: not [`super::Pair::ssim`], which keeps them inside.
///
/// # Errors
/// Where the shapes differ, there is no image, or a side is below 11 pixels.
pub fn ssim<B: Backend>(images: Tensor<B, 4>, others: Tensor<B, 4>) -> Result<f64, Failure> {
    let [images, others] = shown(images, others, WINDOW)?;
    Ok(value(SsimMetric::new(SsimMetricConfig::new(1.0)), &SsimInput::new(images, others)))
}

/// Mean MS-SSIM of a batch, five scales. Windows reach over the border, where the image is mirrored: not [`super::Pair::ms_ssim`].
///
/// # Errors
/// Where the shapes differ, there is no image, or a side is below 176 pixels.
pub fn ms_ssim<B: Backend>(images: Tensor<B, 4>, others: Tensor<B, 4>) -> Result<f64, Failure> {
    let device = images.device();
    let [images, others] = shown(images, others, WINDOW << 4)?;
    Ok(value(MsSsimMetric::new(MsSsimMetricConfig::new(1.0), &device), &MsSsimInput::new(images, others)))
}

/// Both batches in `0..=1`, if burn-train, which panics otherwise, can compare them.
fn shown<B: Backend>(images: Tensor<B, 4>, others: Tensor<B, 4>, least: usize) -> Result<[Tensor<B, 4>; 2], Failure> {
    let (left, right) = (images.dims(), others.dims());
    if left != right || left[0] == 0 || left[1] != 3 || left[2].min(left[3]) < least {
        return Err(Failure::new(format!(
            "two batches of RGB images of at least {least} px and of one shape can be compared, got {left:?} and {right:?}"
        )));
    }
    Ok([images, others].map(|images| ((images + 1.0) / 2.0).clamp(0.0, 1.0)))
}

fn value<M: Metric + Numeric>(mut metric: M, input: &M::Input) -> f64 {
    let progress = || Progress { items_processed: 0, items_total: 1 };
    let metadata = MetricMetadata { progress: progress(), global_progress: progress(), iteration: None, lr: None };
    metric.update(input, &metadata);
    metric.value().current()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::pair::tests::formula_images;
    use super::super::{Frechet, Pair};
    use super::*;
    use crate::backend::Host;
    use crate::common::tensors::{Tensor as Stored, write_safetensors};
    use crate::data::to_tensor;
    use crate::params::settle;

    const SIZE: usize = 180;

    fn batches() -> [Tensor<Host, 4>; 2] {
        formula_images(SIZE, SIZE).map(|image| to_tensor(&image, 1, SIZE, &Default::default()))
    }

    #[test]
    fn psnr_is_ours() {
        let [a, b] = formula_images(SIZE, SIZE);
        let ours = Pair::new(&a, &b, SIZE, SIZE).expect("a pair").psnr();
        let [a, b] = batches();
        let theirs = psnr(a.clone(), b).expect("a figure");
        assert!((theirs - ours).abs() < 1e-3, "{theirs}, ours {ours}");
        assert!((psnr(a.clone(), a).expect("a figure") - super::super::LARGEST_PSNR).abs() < 1e-3);
    }

    #[test]
    fn ssim_and_ms_ssim_are_ours_with_the_same_borders() {
        let [a, b] = batches();
        let (ours, theirs) = (super::super::ssim::tests::with_black_border(SIZE), ssim(a.clone(), b.clone()));
        let theirs = theirs.expect("a figure");
        assert!((theirs - ours).abs() < 1e-5, "SSIM {theirs}, ours {ours}");
        let (ours, theirs) = (super::super::ssim::tests::with_mirrored_border(SIZE), ms_ssim(a, b));
        let theirs = theirs.expect("a figure");
        assert!((theirs - ours).abs() < 1e-5, "MS-SSIM {theirs}, ours {ours}");
    }

    #[test]
    fn images_that_burn_train_would_panic_on_are_refused() {
        let of = |size: usize| Tensor::<Host, 4>::zeros([1, 3, size, size], &Default::default());
        assert!(psnr(of(3), of(4)).is_err() && ssim(of(10), of(10)).is_err() && ms_ssim(of(175), of(175)).is_err());
    }

    #[test]
    fn inception_takes_published_names_and_gives_rows() {
        let device = Default::default();
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("inception.safetensors");
        let fid: Fid<Host> = settle(FidConfig::new().with_normalize(false).init(&device), 1);
        let named = tensors(&fid);
        let names: Vec<String> = named.keys().map(|name| published_name(name)).collect();
        for expected in [
            "Conv2d_1a_3x3.conv.weight",
            "Conv2d_3b_1x1.bn.running_var",
            "Mixed_5b.branch3x3dbl_3.bn.weight",
            "Mixed_7c.branch_pool.bn.bias",
        ] {
            assert!(names.iter().any(|name| name == expected), "{expected} is not in {names:?}");
        }
        let stored: Vec<Stored<'_>> = names
            .iter()
            .zip(named.values())
            .map(|(name, tensor)| Stored::new(name, &tensor.shape, &tensor.values))
            .collect();
        write_safetensors(&path, &stored, &[]).expect("a file");
        let inception = Inception::<Host>::load(&path, &device).expect("a network");
        let [a, _] = batches();
        let rows = inception.features(a.clone());
        assert_eq!((rows.len(), inception.width()), (WIDTH, WIDTH));
        let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(false);
        assert_eq!(rows, host(fid.extract_features(interpolate(a, [INPUT; 2], options))));
        Frechet::new(inception.width()).expect("a width").add(&rows).expect("rows");

        write_safetensors(&path, &stored[..stored.len() - 1], &[]).expect("a file");
        let message = Inception::<Host>::load(&path, &device).err().map(|failure| failure.to_string());
        assert!(message.is_some_and(|message| message.contains("is missing")));
        fs::write(&path, b"no tensors").expect("a file");
        assert!(Inception::<Host>::load(&path, &device).is_err());
    }
}
