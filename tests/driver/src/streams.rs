//! Streams, events and graphs: in which order work runs.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::vm::{Arg, Module};
use crate::{
    CAPTURE_ISOLATION, CAPTURE_UNSUPPORTED, CAPTURED_EVENT, CURRENT, Driver, ILLEGAL_ADDRESS, INVALID_HANDLE,
    NOT_READY, Result,
};

/// Something to be done, with the arguments that the call had.
#[derive(Clone)]
pub enum Work {
    Launch {
        module: Rc<Module>,
        kernel: String,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        args: Vec<Arg>,
    },
    Write(u64, Vec<u8>),
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Release(u64),
    /// The event's so many-th record is reached.
    Record(usize, u64),
    /// That record must have been reached.
    Wait(usize, u64),
}

/// A stream with what it has not done yet.
pub struct Stream {
    pub context: usize,
    waiting: VecDeque<Work>,
    /// What is being recorded for a graph.
    pub capture: Option<Vec<Work>>,
}

/// A place in streams' order.
#[derive(Default)]
pub struct Event {
    recorded: u64,
    reached: u64,
    /// The stream of the last record, and whether that was part of a graph.
    stream: usize,
    captured: bool,
}

impl Stream {
    pub fn of(context: usize) -> Self {
        Self { context, waiting: VecDeque::new(), capture: None }
    }
}

impl Driver {
    /// The stream of a handle; the default streams are the current context's.
    pub fn stream(&mut self, handle: usize) -> Result<usize> {
        let (context, _) = self.current()?;
        let stream = if handle <= 2 { context } else { handle };
        match self.streams.contains_key(&stream) {
            true => Ok(stream),
            false => Err(INVALID_HANDLE),
        }
    }

    /// What no stream may do while one of the context is recorded.
    pub fn refuse_in_capture(&self) -> Result<()> {
        let context = CURRENT.get();
        match self.streams.values().any(|stream| stream.context == context && stream.capture.is_some()) {
            true => Err(CAPTURE_UNSUPPORTED),
            false => Ok(()),
        }
    }

    /// Appends work, to the graph where one is recorded.
    pub fn queue(&mut self, stream: usize, work: Work) -> Result<()> {
        let stream = self.stream(stream)?;
        let Some(of) = self.streams.get_mut(&stream) else { return Err(INVALID_HANDLE) };
        match &mut of.capture {
            Some(graph) => graph.push(work),
            None => of.waiting.push_back(work),
        }
        Ok(())
    }

    pub fn record(&mut self, event: usize, stream: usize) -> Result<()> {
        let stream = self.stream(stream)?;
        let captured = self.streams[&stream].capture.is_some();
        let of = self.events.get_mut(&event).ok_or(INVALID_HANDLE)?;
        (of.stream, of.captured) = (stream, captured);
        if captured {
            return Ok(());
        }
        of.recorded += 1;
        let work = Work::Record(event, of.recorded);
        self.queue(stream, work)
    }

    pub fn wait(&mut self, stream: usize, event: usize) -> Result<()> {
        let stream = self.stream(stream)?;
        let captured = self.streams[&stream].capture.is_some();
        let of = self.events.get(&event).ok_or(INVALID_HANDLE)?;
        match (of.captured, captured) {
            // A stream knows its own order.
            _ if of.stream == stream => Ok(()),
            (true, false) => Err(CAPTURED_EVENT),
            (false, true) if of.recorded > 0 => Err(CAPTURE_ISOLATION),
            (_, true) => Ok(()),
            (false, false) => {
                let work = Work::Wait(event, of.recorded);
                self.queue(stream, work)
            }
        }
    }

    /// Runs a stream's work to its end.
    pub fn finish(&mut self, stream: usize) -> Result<()> {
        while let Some(work) = self.streams.get_mut(&stream).and_then(|stream| stream.waiting.pop_front()) {
            self.run(stream, work)?;
        }
        Ok(())
    }

    /// Runs all work of the current context.
    pub fn finish_all(&mut self) -> Result<()> {
        let (context, _) = self.current()?;
        let mut streams: Vec<usize> =
            self.streams.iter().filter(|(_, s)| s.context == context).map(|(k, _)| *k).collect();
        streams.sort();
        streams.into_iter().try_for_each(|stream| self.finish(stream))
    }

    /// Runs what an event's last record stands behind.
    pub fn reach(&mut self, event: usize) -> Result<()> {
        let recorded = self.events.get(&event).ok_or(INVALID_HANDLE)?.recorded;
        self.reach_record(event, recorded)
    }

    pub fn query(&self, event: usize) -> Result<()> {
        let event = self.events.get(&event).ok_or(INVALID_HANDLE)?;
        match event.reached >= event.recorded {
            true => Ok(()),
            false => Err(NOT_READY),
        }
    }

    fn reach_record(&mut self, event: usize, record: u64) -> Result<()> {
        // An event that was destroyed, or never recorded, holds nobody up.
        while let Some(Event { reached, stream, .. }) = self.events.get(&event)
            && *reached < record
        {
            let stream = *stream;
            match self.streams.get_mut(&stream).and_then(|stream| stream.waiting.pop_front()) {
                Some(work) => self.run(stream, work)?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn run(&mut self, stream: usize, work: Work) -> Result<()> {
        match work {
            Work::Launch { module, kernel, grid, block, shared, args } => {
                let before = self.machine.executed();
                let done = self.machine.launch(&module, &kernel, grid, block, shared, &args);
                if self.traces {
                    println!("{kernel} of {grid:?} blocks: {} warp instructions", self.machine.executed() - before);
                }
                return done.map_err(|fault| self.lose(stream, fault.to_string()));
            }
            Work::Write(address, bytes) => self.machine.write(address, &bytes),
            Work::Copy { to, from, bytes } => {
                let data = self.machine.read(from, bytes).map_err(|fault| self.lose(stream, fault.to_string()))?;
                self.machine.write(to, &data);
            }
            Work::Release(address) => self.release(address)?,
            Work::Record(event, record) => {
                if let Some(event) = self.events.get_mut(&event) {
                    event.reached = event.reached.max(record);
                }
            }
            Work::Wait(event, record) => self.reach_record(event, record)?,
        }
        Ok(())
    }

    /// After a fault the device is lost.
    fn lose(&mut self, stream: usize, fault: String) -> i32 {
        eprintln!("virtual driver: {fault}");
        let context = self.streams.get(&stream).map(|stream| stream.context);
        if let Some(device) = context.and_then(|context| self.contexts.get(&context)) {
            self.devices[*device].lost = true;
        }
        ILLEGAL_ADDRESS
    }
}
