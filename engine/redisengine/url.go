package redisengine

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/redis/rueidis"
)

// errURL contains no details, since any part of the URL may be a password.
var errURL = errors.New("malformed URL (not shown, since it may contain a password)")

// parseURL is rueidis.ParseURL with errors that contain nothing of the URL. It also returns the
// texts that must not be shown later.
func parseURL(text string) (opts rueidis.ClientOption, secrets []string, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return opts, nil, errURL
	}
	switch u.Scheme {
	case "redis", "rediss", "valkey", "valkeys":
		if u.Fragment != "" || strings.Contains(u.Path+u.RawQuery, "@") {
			return opts, nil, fmt.Errorf("%w: a # or @ in a password must be written as %%23 or %%40", errURL)
		}
	case "unix":
	default:
		return opts, nil, fmt.Errorf("%w: its scheme must be redis, rediss, valkey, valkeys or unix", errURL)
	}
	if opts, err = rueidis.ParseURL(text); err != nil {
		return opts, nil, errURL
	}
	if u.User != nil {
		_, raw, _ := strings.Cut(u.User.String(), ":")
		secrets = []string{raw}
	}
	if opts.Sentinel.MasterSet != "" && opts.TLSConfig != nil {
		opts.TLSConfig.ServerName = "" // that of the address, which the Sentinels return
		opts.Sentinel.TLSConfig = opts.TLSConfig.Clone()
	}
	return opts, secrets, nil
}
