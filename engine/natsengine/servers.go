package natsengine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"
)

// errURL contains no details, since any part of the URL may be a password.
var errURL = errors.New("malformed server URL (not shown, since it may contain a password)")

// parseServers splits a list of URLs. It returns the servers in the order in which they are tried,
// and the passwords and tokens in the URLs.
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
			return nil, nil, fmt.Errorf("%w: its scheme must be nats, tls, ws or wss", errURL)
		}
		servers = append(servers, u)
		secrets = append(secrets, urlSecrets(u)...)
	}
	if shuffle {
		rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	}
	return servers, secrets, nil
}

// urlSecrets returns the parts of a URL that must not be shown, with and without escapes. A user
// without a password is a token.
func urlSecrets(u *url.URL) []string {
	if u.User == nil {
		return nil
	}
	user, raw := u.User.Username(), u.User.String()
	password, ok := u.User.Password()
	if !ok {
		return []string{user, raw}
	}
	_, raw, _ = strings.Cut(raw, ":")
	return []string{password, raw}
}

// nextServers returns the servers for a connection. Each call begins with another server, because a
// server that answers may still be cut off from the others.
func (b *backend) nextServers() []string {
	servers := make([]string, len(b.servers))
	for i := range servers {
		servers[i] = b.servers[(b.dials+i)%len(b.servers)].String()
	}
	b.dials++
	return servers
}

// secure reports whether the client requires TLS. It requires TLS for all servers if one URL does.
func (b *backend) secure() bool {
	for _, u := range b.servers {
		if u.Scheme == "tls" || u.Scheme == "wss" {
			return true
		}
	}
	return b.opts.Secure
}

func (b *backend) webSocket() bool { return strings.HasPrefix(b.servers[0].Scheme, "ws") }

// optionSecrets returns the parts of the client's options that must not be shown.
func optionSecrets(o *nats.Options) []string { return []string{o.Password, o.Token} }
