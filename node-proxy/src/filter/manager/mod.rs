//! The manager: brings the filters that a snapshot names into force, on a
//! thread of its own. Neither a request nor the control runtime waits for a
//! module that is fetched, compiled or started.

mod compiling;
mod engine;
mod entry;
mod keeper;
mod look_back;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use weft_api::node as wire;
use weft_core::filter::FilterSpec;
use weft_wasm_host::{Compiler, Digest};

use self::compiling::Compiled;
use self::keeper::Keeper;
use super::NodeFilter;
use super::listing::{Listing, Listings};
use super::modules::Source;

/// How long it may take the thread to hear of the end.
const DRAIN: Duration = Duration::from_millis(200);

/// What a manager needs to know.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where modules come from.
    pub source: Source,
    /// Where modules, what was compiled of them, and the last good versions are
    /// kept, if anywhere.
    pub state: Option<PathBuf>,
    /// Name of the node, where it is not that of the snapshot.
    pub node: Option<String>,
    /// What compiles them.
    pub compiler: Compiler,
    /// Workers of the proxy: each has an instance of each filter.
    pub workers: usize,
    /// Where modules are fetched.
    pub control: Handle,
}

/// A filter that is wanted.
#[derive(Debug, Clone)]
pub struct Wish {
    /// As the snapshot has it.
    pub wire: Arc<wire::Filter>,
    /// The same, read.
    pub spec: Arc<FilterSpec>,
    /// The filter that it is a version of.
    pub filter: Arc<NodeFilter>,
}

/// All filters that a snapshot wants.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Version of the snapshot.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Name of the cluster.
    pub cluster: String,
    /// In its order.
    pub filters: Vec<Wish>,
}

/// What the thread is told.
#[derive(Debug)]
enum Message {
    /// What is wanted from now on.
    Wishes(Wishes),
    /// The agent was asked for a module.
    Fetched {
        digest: Digest,
        result: Result<Vec<u8>, String>,
    },
    /// A module was compiled, or was not.
    Compiled { digest: Digest, result: Compiled },
    /// The process is about to end. The other end hears when this one knows.
    Drain(mpsc::Sender<()>),
    /// There is nothing more to do.
    Stop,
}

/// The other end of the thread, which is started with the first filter: a proxy
/// without filters does not pay for what runs them.
#[derive(Debug)]
pub struct Manager {
    setup: Setup,
    listing: watch::Sender<Arc<Listing>>,
    thread: Option<mpsc::Sender<Message>>,
}

impl Manager {
    /// One that has nothing to do yet.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self {
            setup,
            listing: watch::Sender::default(),
            thread: None,
        }
    }

    /// What became of the filters, from now on.
    #[must_use]
    pub fn listings(&self) -> Listings {
        self.listing.subscribe()
    }

    /// Makes sure that so many filters can be managed.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn prepare(&mut self, filters: usize) -> io::Result<()> {
        if filters > 0 && self.thread.is_none() {
            self.thread = Some(self.start()?);
        }
        Ok(())
    }

    /// Wants these filters from now on, and no others.
    pub fn wish(&mut self, wishes: Wishes) {
        let Some(thread) = &self.thread else { return };
        let Err(mpsc::SendError(message)) = thread.send(Message::Wishes(wishes)) else {
            return;
        };
        tracing::error!("the filters' manager has ended; another one begins");
        self.thread = None;
        match self.start() {
            Ok(thread) => {
                let _there = thread.send(message);
                self.thread = Some(thread);
            }
            Err(error) => tracing::error!(%error, "no other one can be made"),
        }
    }

    /// The process is about to end: nothing new is compiled. Waits for a moment,
    /// or the module that is would be blamed for the end.
    pub fn drain(&self) {
        if let Some(thread) = &self.thread {
            let (done, wait) = mpsc::channel();
            // One that has ended already is as good.
            let _ended = thread.send(Message::Drain(done));
            let _late = wait.recv_timeout(DRAIN);
        }
    }

    fn start(&self) -> io::Result<mpsc::Sender<Message>> {
        let (sender, inbox) = mpsc::channel();
        let (setup, own) = (self.setup.clone(), sender.clone());
        let listing = self.listing.clone();
        thread::Builder::new()
            .name("filters".to_owned())
            .spawn(move || Keeper::new(setup, inbox, own, listing).run())?;
        Ok(sender)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(thread) = &self.thread {
            // One that has ended already is as good.
            let _ended = thread.send(Message::Stop);
        }
    }
}
