package natsengine_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/natsengine"
)

// Errors, log messages and Health contain no password or token of a valid or invalid URL, or of an
// option.
func TestSecretsAreNotShown(t *testing.T) {
	e := newServer(t, func(o *server.Options) { o.Users = []*server.User{{Username: "bennu", Password: "right"}} })
	dead := newServer(t)
	dead.stop()
	for _, url := range []string{
		"nats://bennu:hunter2@" + e.addr(),
		"bennu:hunter2@" + e.addr(),
		"nats://hunter2@" + e.addr(), // a token
		"nats://bennu:hunter2%21@" + e.addr(),
		"nats://bennu:hunter2@" + dead.addr() + ",nats://bennu:hunter2@" + dead.addr(),
		"ws://bennu:hunter2@" + e.addr(),
		"tls://bennu:hunter2@" + e.addr(),
		"nats://bennu:hunter2@host.invalid",
		"nats://bennu:hunter2@" + e.addr() + "x",
		"nats://bennu:hunter2@127.0.0.1:port",
		"nats://bennu:%hunter2@127.0.0.1",
		"nats://bennu:12/hunter2@127.0.0.1",
		"nats://bennu:12#hunter2@127.0.0.1",
		"nats://bennu:12?hunter2@127.0.0.1",
		"nats://bennu:hunter2 @127.0.0.1",
		"nats://bennu:hunter2\n@127.0.0.1",
		"nats://bennu:hunter2@[::1",
		"hunter2://bennu@127.0.0.1",
		"http://bennu:hunter2@127.0.0.1",
		"nats://127.0.0.1, nats://bennu:hunter2@[x",
		"",
	} {
		var log brokertest.Log
		logger := zerolog.New(&log)
		cfg := natsengine.Config{URL: url, Logger: &logger}
		if url == "" {
			cfg.URL, cfg.Options = e.addr(), []nats.Option{nats.UserInfo("bennu", "hunter2"), nats.Token("hunter2")}
		}
		if _, err := natsengine.New(cfg); err != nil {
			if strings.Contains(fmt.Sprintf("%v %+v %q", err, err, err), "hunter2") {
				t.Errorf("%q: %v", url, err)
			}
		} else {
			a, _ := run(t, cfg)
			brokertest.WaitUntil(t, "refused", func() bool { return strings.Contains(log.String(), "not connected") })
			if all := fmt.Sprint(a.Health(), a.Health().Err, log.String()); strings.Contains(all, "hunter2") {
				t.Errorf("%q: %s", url, all)
			}
		}
	}
}
