//! HTTP routes: the daemon's own paths, and the methods of each.
//!
//! The only table of them: requests are dispatched by it, and the configuration refuses a
//! WebSocket endpoint at a path of it.

use std::borrow::Cow;

/// The path of the health check, as monitors and load balancers know it.
pub const HEALTH: &str = "/healthz";

/// An endpoint of HTTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    Broadcast,
    Interrupt,
    Stats,
    Metrics,
    Health,
    /// Not served yet: a WebSocket endpoint here would have to move later.
    Reserved,
}

/// All of them.
const ROUTES: [(&str, Route); 9] = [
    ("/broadcast", Route::Broadcast),
    ("/api/v1/broadcast", Route::Broadcast),
    ("/interrupt", Route::Interrupt),
    ("/api/v1/interrupt", Route::Interrupt),
    ("/api/v1/ws/stats", Route::Stats),
    ("/metrics", Route::Metrics),
    (HEALTH, Route::Health),
    ("/api/v1/lines", Route::Reserved),
    ("/api/v1/stream", Route::Reserved),
];

impl Route {
    /// The endpoint at a path, which is compared as it was sent.
    pub fn of(path: &str) -> Option<Self> {
        ROUTES.iter().find(|(known, _)| *known == path).map(|(_, route)| *route)
    }

    /// The methods, as the header `Allow` lists them.
    pub fn methods(self) -> &'static str {
        match self {
            Self::Broadcast | Self::Interrupt => "POST",
            Self::Stats | Self::Metrics | Self::Health => "GET, HEAD",
            Self::Reserved => "",
        }
    }

    /// Whether a request with this method is answered.
    pub fn allows(self, method: &str) -> bool {
        self.methods().split(", ").any(|allowed| allowed == method)
    }
}

/// Checks a path for a WebSocket endpoint.
///
/// # Errors
/// The form that is wanted, for the administrator.
pub fn endpoint(path: &str) -> Result<(), String> {
    let wanted = "a path such as \"/ws\"";
    if !path.starts_with('/') {
        return Err(format!("{wanted}, which begins with \"/\""));
    }
    match path.bytes().find(|byte| !byte.is_ascii_graphic() || b"?#%".contains(byte)) {
        Some(b'?') => return Err(format!("{wanted}, without a query")),
        Some(b'#') => return Err(format!("{wanted}, without a fragment")),
        Some(b'%') => {
            return Err(format!("{wanted}, without \"%\": it is compared with requests as they are sent"));
        }
        Some(_) => return Err(format!("{wanted}, of visible ASCII characters")),
        None => {}
    }
    match Route::of(&tidy(path)) {
        Some(Route::Reserved) => Err("a path that is not reserved for requests of HTTP".to_owned()),
        Some(_) => Err("a path that nothing else answers on".to_owned()),
        None => Ok(()),
    }
}

/// A path without the slashes that proxies add: repeated ones, and one at the end.
pub fn tidy(path: &str) -> Cow<'_, str> {
    let is_tidy = !path.contains("//") && (path == "/" || !path.ends_with('/'));
    if is_tidy {
        return path.into();
    }
    let parts = path.split('/').filter(|part| !part.is_empty());
    let tidy: String = parts.flat_map(|part| ["/", part]).collect();
    if tidy.is_empty() { "/".into() } else { tidy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_that_answers_requests_can_be_a_websocket_endpoint() {
        for (path, route) in ROUTES {
            assert_eq!(Route::of(path), Some(route));
            for path in [path.to_owned(), format!("{path}/"), format!("/{path}")] {
                assert!(endpoint(&path).is_err(), "{path}");
            }
            assert_eq!(route.methods().is_empty(), route == Route::Reserved, "{path}");
            assert!(!route.allows("PUT"), "{path}");
        }
        assert_eq!(endpoint("/api/v1/ws"), Ok(()));
    }
}
