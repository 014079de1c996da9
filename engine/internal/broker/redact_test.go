package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
)

// Errors of the engine may contain a secret. Neither Health, nor gaps, nor the log shows it, and
// errors.Is still finds the error.
func TestSecretsAreRedacted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		withSecret := fmt.Errorf("dial redis://u:hunter2@host: %w", errDown)
		var log bytes.Buffer
		logger := zerolog.New(zerolog.SyncWriter(&log))
		e := &bus{refuse: withSecret}
		a := start(t, e, broker.Config{Secrets: []string{"", "hunter2"}, Logger: &logger})
		advance(time.Minute)
		if h := a.Health(); !errors.Is(h.Err, errDown) || h.Err.Error() != "dial redis://u:xxxxx@host: the bus is down" {
			t.Errorf("health %+v", h)
		}
		e.set(func() { e.refuse = nil })
		advance(time.Minute)
		e.conns[0].receiver.Gap(withSecret)
		e.conns[0].receiver.PathChanged(withSecret)
		e.set(func() { e.conns[0].dead = true; e.conns[0].lost <- withSecret })
		advance(time.Minute)
		got := strings.Join(a.takeTexts(), "\n") + log.String()
		if strings.Contains(got, "hunter2") || strings.Count(got, "xxxxx") < 6 {
			t.Error(got)
		}
	})
}
