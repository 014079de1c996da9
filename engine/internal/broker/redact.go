package broker

import "strings"

// redacted is an error whose text contains no secret. errors.Is and errors.As find the original
// error.
type redacted struct {
	text string
	err  error
}

func (r *redacted) Error() string { return r.text }
func (r *redacted) Unwrap() error { return r.err }

// redact replaces the configured secrets in the text of err.
func (b *Broker) redact(err error) error { return Redact(err, b.cfg.Secrets) }

// Redact replaces secrets in the text of err. An engine's client may put a URL into an error, and a
// server may repeat what it was sent.
func Redact(err error, secrets []string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "xxxxx")
		}
	}
	if text == err.Error() {
		return err
	}
	return &redacted{text, err}
}
