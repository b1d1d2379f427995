//! VQGAN trainings: settings, steps, checkpoints, and what came of them.

pub mod config;
pub mod options;
pub mod presets;

pub mod model;
pub mod trainer;

pub mod checkpoint;
pub mod run;

pub mod trained;

pub mod evaluate;
pub mod report;
pub mod table;
