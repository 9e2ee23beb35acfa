//! `[heartbeat]`: when a silent client is asked, and when it is given up.

use super::{DAY, seconds};
use crate::config::pass::Section;
use crate::config::spelling;
use crate::hub::settings::Heartbeat;

pub(super) fn options(heartbeat: &mut Heartbeat, section: &mut Section<'_>) {
    let location = section.location("pong_timeout").or_else(|| section.location("ping_interval"));
    section.duration("ping_interval", &mut heartbeat.ping_interval, seconds(1, DAY));
    section.duration("pong_timeout", &mut heartbeat.pong_timeout, seconds(2, 2 * DAY));
    if let Some(location) = location.filter(|_| heartbeat.pong_timeout <= heartbeat.ping_interval) {
        let [pong, ping] = [heartbeat.pong_timeout, heartbeat.ping_interval].map(spelling::duration);
        let message = format!(
            "`heartbeat.pong_timeout` ({pong}) must be longer than `heartbeat.ping_interval` ({ping}), or \
             every connection is closed before its ping"
        );
        section.complain(location, message);
    }
}
