package natsengine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"
)

// errURL says no more, since the rest of the URL may be a password.
var errURL = errors.New("malformed server URL (it is not shown, as it may contain a password)")

// parseServers splits a list of URLs. It returns them in the order in which they are tried, and the passwords and tokens in them.
func parseServers(list string, shuffle bool) (servers []*url.URL, secrets []string, err error) {
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		if !strings.Contains(text, "://") {
			text = "nats://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Fragment != "" || strings.Contains(u.Path+u.RawQuery, "@") {
			return nil, nil, errURL
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return nil, nil, fmt.Errorf("%w: its scheme is none of nats, tls, ws and wss", errURL)
		}
		servers = append(servers, u)
		secrets = append(secrets, urlSecrets(u)...)
	}
	if shuffle {
		rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	}
	return servers, secrets, nil
}

// urlSecrets returns what must not be shown of a URL, as it is written there and without escapes. A user without a password is a token.
func urlSecrets(u *url.URL) []string {
	if u.User == nil {
		return nil
	}
	user, password := u.User.Username(), ""
	raw := u.User.String()
	password, ok := u.User.Password()
	if !ok {
		return []string{user, raw}
	}
	_, raw, _ = strings.Cut(raw, ":")
	return []string{password, raw}
}

// next returns the servers for a connection, beginning with another one each time: a server that answers may still be cut off.
func (e *engine) next() []string {
	servers := make([]string, len(e.servers))
	for i := range servers {
		servers[i] = e.servers[(e.dials+i)%len(e.servers)].String()
	}
	e.dials++
	return servers
}

// secure reports whether the client wants TLS: it does for all servers if one of them does.
func (e *engine) secure() bool {
	for _, u := range e.servers {
		if u.Scheme == "tls" || u.Scheme == "wss" {
			return true
		}
	}
	return e.opts.Secure
}

func (e *engine) webSocket() bool { return strings.HasPrefix(e.servers[0].Scheme, "ws") }

// optionSecrets returns what must not be shown of the client's options.
func optionSecrets(o *nats.Options) []string { return []string{o.Password, o.Token} }
