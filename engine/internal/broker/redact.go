package broker

import "strings"

// redacted is an error whose text shows no secret. errors.Is and errors.As find the original.
type redacted struct {
	text string
	err  error
}

func (r *redacted) Error() string { return r.text }
func (r *redacted) Unwrap() error { return r.err }

// redact returns err without the secrets of the configuration in its text. An engine's client may put a URL into an error, and a
// server what was sent to it.
func (r *Relay) redact(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, secret := range r.cfg.Secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "xxxxx")
		}
	}
	if text == err.Error() {
		return err
	}
	return &redacted{text, err}
}
