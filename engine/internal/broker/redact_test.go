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

// A secret is nowhere to be seen, whichever way an error of the engine comes, and errors.Is still finds the error.
func TestSecrets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaky := fmt.Errorf("dial redis://u:hunter2@host: %w", errDown)
		var log bytes.Buffer
		logger := zerolog.New(&log)
		e := &bus{refuse: leaky}
		a := start(t, e, broker.Config{Secrets: []string{"", "hunter2"}, Logger: &logger})
		pass(time.Minute)
		if h := a.Health(); !errors.Is(h.Err, errDown) || h.Err.Error() != "dial redis://u:xxxxx@host: the bus is down" {
			t.Errorf("health %+v", h)
		}
		e.set(func() { e.refuse = nil })
		pass(time.Minute)
		e.conns[0].in.Gap(leaky)
		e.conns[0].in.Changed(leaky)
		e.set(func() { e.conns[0].dead = true; e.conns[0].lost <- leaky })
		pass(time.Minute)
		got := strings.Join(a.heard(), "\n") + log.String()
		if strings.Contains(got, "hunter2") || strings.Count(got, "xxxxx") < 6 {
			t.Error(got)
		}
	})
}
