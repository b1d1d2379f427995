//! Streams, events and graphs: in which order work runs.

use std::collections::VecDeque;
use std::rc::Rc;
use std::thread::ThreadId;

use crate::vm::Module;
use crate::{
    CAPTURE_INVALIDATED, CAPTURE_ISOLATION, CAPTURE_UNSUPPORTED, CAPTURED_EVENT, Driver, ILLEGAL_ADDRESS,
    INVALID_HANDLE, NOT_READY, Result,
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
        args: Vec<Vec<u8>>,
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
    /// That record, which the stream named last has, must have been reached.
    Wait(usize, u64, usize),
}

/// A stream with what it has not done yet.
pub struct Stream {
    pub context: usize,
    waiting: VecDeque<Work>,
    /// What is being recorded for a graph.
    pub capture: Option<Capture>,
}

/// Work that is recorded for a graph.
pub struct Capture {
    pub work: Vec<Work>,
    /// Something was refused: there will be no graph.
    pub spoiled: bool,
    /// Who may not call meanwhile what may wait for streams.
    pub forbids: Forbids,
}

/// Threads, by the mode of a capture.
pub enum Forbids {
    All,
    Thread(ThreadId),
    Nobody,
}

impl Forbids {
    fn this_thread(&self) -> bool {
        match self {
            Self::All => true,
            Self::Thread(thread) => *thread == std::thread::current().id(),
            Self::Nobody => false,
        }
    }
}

/// A place in streams' order.
#[derive(Default)]
pub struct Event {
    recorded: u64,
    reached: u64,
    /// The stream of the last record, and whether that was part of a graph.
    stream: usize,
    captured: bool,
    /// Its handle is no more, but streams may wait for its last record.
    destroyed: bool,
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

    /// Refuses what waits for streams or makes memory while one is recorded whose mode forbids it, and ends that capture.
    pub fn refuse_in_capture(&mut self) -> Result<()> {
        let captures = self.streams.values_mut().filter_map(|stream| stream.capture.as_mut());
        let forbidding = captures.filter(|capture| capture.forbids.this_thread());
        // The first refusal says why, those that follow that there was one.
        let spoiled = forbidding.map(|capture| core::mem::replace(&mut capture.spoiled, true)).reduce(|a, b| a && b);
        match spoiled {
            None => Ok(()),
            Some(false) => Err(CAPTURE_UNSUPPORTED),
            Some(true) => Err(CAPTURE_INVALIDATED),
        }
    }

    /// A call on a stream; one that is refused ends the stream's capture.
    pub fn on(&mut self, stream: usize, body: impl FnOnce(&mut Self, usize) -> Result<()>) -> Result<()> {
        let stream = self.stream(stream)?;
        if self.streams[&stream].capture.as_ref().is_some_and(|capture| capture.spoiled) {
            return Err(CAPTURE_INVALIDATED);
        }
        let done = body(self, stream);
        if done.is_err()
            && let Some(capture) = self.streams.get_mut(&stream).and_then(|stream| stream.capture.as_mut())
        {
            capture.spoiled = true;
        }
        done
    }

    /// Waits for a stream, which cannot be recorded.
    pub fn synchronize(&mut self, stream: usize) -> Result<()> {
        match self.streams[&stream].capture {
            Some(_) => Err(CAPTURE_UNSUPPORTED),
            None => self.finish(stream),
        }
    }

    /// Appends work, to the graph where one is recorded.
    pub fn queue(&mut self, stream: usize, work: Work) -> Result<()> {
        let stream = self.stream(stream)?;
        let Some(of) = self.streams.get_mut(&stream) else { return Err(INVALID_HANDLE) };
        match &mut of.capture {
            Some(capture) => capture.work.push(work),
            None => of.waiting.push_back(work),
        }
        Ok(())
    }

    fn event(&self, event: usize) -> Result<&Event> {
        self.events.get(&event).filter(|event| !event.destroyed).ok_or(INVALID_HANDLE)
    }

    /// Ends an event's handle; streams that wait for its last record still do.
    pub fn destroy(&mut self, event: usize) -> Result<()> {
        let waited_for = self.event(event).map(|event| event.reached < event.recorded)?;
        match self.events.get_mut(&event) {
            Some(event) if waited_for => event.destroyed = true,
            _ => drop(self.events.remove(&event)),
        }
        Ok(())
    }

    pub fn record(&mut self, event: usize, stream: usize) -> Result<()> {
        let stream = self.stream(stream)?;
        let captured = self.streams[&stream].capture.is_some();
        self.event(event)?;
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
        let of = self.event(event)?;
        match (of.captured, captured) {
            // A stream knows its own order.
            _ if of.stream == stream => Ok(()),
            (true, false) => Err(CAPTURED_EVENT),
            (false, true) if of.recorded > 0 => Err(CAPTURE_ISOLATION),
            (_, true) => Ok(()),
            (false, false) => {
                let work = Work::Wait(event, of.recorded, of.stream);
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
        let Event { recorded, stream, .. } = *self.event(event)?;
        self.reach_record(event, recorded, stream)
    }

    pub fn query(&self, event: usize) -> Result<()> {
        let event = self.event(event)?;
        match event.reached >= event.recorded {
            true => Ok(()),
            false => Err(NOT_READY),
        }
    }

    fn reach_record(&mut self, event: usize, record: u64, stream: usize) -> Result<()> {
        // An event that is gone has been reached, and one that was never recorded holds nobody up.
        while self.events.get(&event).is_some_and(|event| event.reached < record) {
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
                if let Some(device) = self.device_of(stream) {
                    self.machine.select(device);
                }
                let before = [self.machine.executed(), self.machine.traffic()];
                let done = self.machine.launch_bytes(&module, &kernel, grid, block, shared, &args);
                if self.traces {
                    let [instructions, bytes] =
                        [self.machine.executed() - before[0], self.machine.traffic() - before[1]];
                    println!("{kernel} of {grid:?} blocks: {instructions} warp instructions, {bytes} bytes");
                }
                return done.map_err(|fault| self.lose(stream, fault.to_string()));
            }
            Work::Write(address, bytes) => self.machine.write(address, &bytes),
            Work::Copy { to, from, bytes } => {
                let data = self.machine.read(from, bytes).map_err(|fault| self.lose(stream, fault.to_string()))?;
                self.machine.write(to, &data);
            }
            Work::Release(address) => self.release(address)?,
            Work::Record(handle, record) => {
                if let Some(event) = self.events.get_mut(&handle) {
                    event.reached = event.reached.max(record);
                    if event.destroyed && event.reached == event.recorded {
                        self.events.remove(&handle);
                    }
                }
            }
            Work::Wait(event, record, stream) => self.reach_record(event, record, stream)?,
        }
        Ok(())
    }

    fn device_of(&self, stream: usize) -> Option<usize> {
        self.contexts.get(&self.streams.get(&stream)?.context).copied()
    }

    /// After a fault the device is lost.
    fn lose(&mut self, stream: usize, fault: String) -> i32 {
        eprintln!("virtual driver: {fault}");
        if let Some(device) = self.device_of(stream) {
            self.devices[device].lost = true;
        }
        ILLEGAL_ADDRESS
    }
}
