package doctor

import (
	"context"
	"net/url"
)

// upstreams are the names that a proxy usually has for the server behind it. A proxy that does not
// keep the Host sends one of them.
var upstreams = []string{
	"127.0.0.1", "localhost", "[::1]", "backend", "app", "web", "server", "upstream", "bennu", "phoenix", "chat", "api",
}

// origins tries handshakes as browsers make them, from pages of several sites. It returns an origin
// that the server accepts, or an empty one, with which it accepts programs only.
func (e *examination) origins(ctx context.Context, own string) (accepted string) {
	accepts := func(origin string) bool {
		a := e.handshake(ctx, attempt{origin: origin})
		a.close()
		return a.conn != nil
	}
	foreign := e.base.Scheme + "://another-site.invalid"
	switch {
	case accepts(e.Origin):
		accepted = e.Origin
		e.ok("origin", "pages of %s may connect", e.Origin)
		if accepts(foreign) {
			e.note("origin", "Name your pages in socket.Config.Origins (Phoenix: check_origin).",
				"pages of every site may connect, with the cookies of their visitors")
		}
	case e.Origin != own && accepts(own):
		accepted = own
		e.problem("origin", "Add "+e.Origin+" to socket.Config.Origins (Phoenix: check_origin).",
			"pages of %s are refused, but those of %s may connect", e.Origin, own)
	default:
		if name := e.seenHost(accepts); name != "" {
			e.problem("host", e.hostFix(),
				"the proxy replaces the Host: the server sees %s instead of %s, and refuses pages of %s",
				name, e.base.Hostname(), e.Origin)
			return ""
		}
		e.problem("origin", "Add "+e.Origin+" to socket.Config.Origins (Phoenix: check_origin, or the host in the url of "+
			"the endpoint). Behind a proxy on the same machine, Bennu needs it, or "+e.base.Hostname()+" in "+
			"socket.Config.Hosts. The log of the server names the setting.\n"+e.hostFix(),
			"pages of %s are refused, programs are not", e.Origin)
	}
	return accepted
}

// seenHost returns the name of the server as the server sees it, if that is another one than in the
// URL. A server that allows pages of its own host accepts a page of that name.
func (e *examination) seenHost(accepts func(origin string) bool) string {
	for _, name := range upstreams {
		if u := (&url.URL{Scheme: "http", Host: name}); u.Hostname() != e.base.Hostname() && accepts(u.String()) {
			return u.Hostname()
		}
	}
	return ""
}
