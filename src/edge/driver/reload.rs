//! A reload, as far as the edges go.
//!
//! Knows who has asked for one, and puts another site, other settings and other
//! bounds in the place of those in use. Does not know where they come from: whoever
//! hears the bell reads them.

use std::rc::Rc;

use async_channel::{Receiver, Sender};

use super::Driver;
use super::config::EdgeConfig;
use crate::edge::store;
use crate::hub::{Input, Requester, Settings};
use crate::protocol::frame::Reloaded;
use crate::protocol::{Code, ConnectionId, Frame, Refusal, RequestId};

/// Those who have asked, and are not answered yet.
pub(in crate::edge) struct Reloads {
    asked: Vec<(ConnectionId, Option<RequestId>)>,
    /// A latch: one reload answers all who have asked by then.
    bell: (Sender<()>, Receiver<()>),
}

impl Default for Reloads {
    fn default() -> Self {
        Self { asked: Vec::new(), bell: async_channel::bounded(1) }
    }
}

impl Reloads {
    /// Whether a connection has asked.
    pub(in crate::edge) fn owe(&self, conn: ConnectionId) -> bool {
        self.asked.iter().any(|(asker, _)| *asker == conn)
    }
}

impl Driver {
    /// Rings when somebody has asked for a reload.
    pub fn reload_bell(&self) -> Receiver<()> {
        self.reloads.bell.1.clone()
    }

    /// Somebody asks for a reload. It is answered when that is done: files are read
    /// between two turns, when nobody is in the middle of anything.
    pub(in crate::edge) fn ask_for_reload(&mut self, conn: ConnectionId, id: Option<RequestId>) {
        if !self.may_administer(conn) {
            return self.refuse_reload(conn, id.as_ref(), &Refusal::for_administrators());
        }
        self.reloads.asked.push((conn, id));
        // Full: it rings already.
        let _ = self.reloads.bell.0.try_send(());
    }

    /// Goes on with another configuration. Every link stays.
    pub fn configure(&mut self, site: Rc<EdgeConfig>, settings: Settings, disk: Option<store::StoreOptions>) {
        self.look_at_the_clock();
        self.links.bound(site.bounds);
        self.limit_messages(site.message_bytes);
        self.site = site;
        if let Some(options) = disk {
            self.store.reconfigure(self.now.moment, options);
        }
        self.tell(Input::Reconfigured { settings: Box::new(settings) });
        self.follow_again();
    }

    /// Answers all who have asked.
    pub fn answer_reload(&mut self, outcome: &Result<Reloaded, String>) {
        self.look_at_the_clock();
        for (conn, id) in std::mem::take(&mut self.reloads.asked) {
            match outcome {
                Ok(reloaded) => {
                    let frame = Frame::Reloaded(reloaded.clone());
                    self.answer(Requester::Connection(conn), id.as_ref(), &frame, None);
                }
                Err(problems) => {
                    let refusal = Refusal::new(Code::BadConfiguration, problems.clone());
                    self.refuse_reload(conn, id.as_ref(), &refusal);
                }
            }
            // The hub says once more whether it owes nothing either.
            if self.links.get(conn).is_some_and(|link| link.ended && !link.leaving) {
                self.tell(Input::ReadClosed { conn });
            }
        }
    }

    fn refuse_reload(&mut self, conn: ConnectionId, id: Option<&RequestId>, refusal: &Refusal) {
        let refusal = refusal.clone().of("reload");
        self.answer(Requester::Connection(conn), id, &Frame::from(&refusal), Some(&refusal));
    }
}
