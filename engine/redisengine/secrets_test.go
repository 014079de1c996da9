//go:build unix

package redisengine_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker/brokertest"
	"bennu.example/engine/redisengine"
	"bennu.example/history"
	"bennu.example/pubsub"
)

// runWithLog runs an adapter until the test ends, and counts its gaps.
func runWithLog(t *testing.T, cfg redisengine.Config, log *brokertest.Log) (a pubsub.Adapter, gaps func() int64) {
	logger := zerolog.New(log)
	cfg.Logger = &logger
	a = newAdapter(t, cfg)
	var n atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- a.Run(ctx, pubsub.Inbox{Deliver: func(*pubsub.Broadcast) {}, Gap: func(error) { n.Add(1) }})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return a, n.Load
}

// Errors, log messages and Health contain no password of a valid or invalid URL, or of the options.
func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	e := newServer(t)
	e.do(t, "ACL", "SETUSER", "default", "resetpass", ">right")
	dead, _ := freePort(t)
	both := rueidis.ClientOption{
		InitAddress: []string{e.addr}, Username: "bennu", Password: "hunter2",
		Sentinel: rueidis.SentinelOption{MasterSet: "x", Username: "bennu", Password: "hunter2"},
	}
	for _, cfg := range []redisengine.Config{
		{URL: "redis://bennu:hunter2@" + e.addr},
		{URL: "redis://:hunter2@" + e.addr + "/0"},
		{URL: "redis://bennu:hunter2%21@" + e.addr},
		{URL: "rediss://bennu:hunter2@" + e.addr},
		{URL: "redis://bennu:hunter2@" + dead},
		{URL: "redis://bennu:hunter2@" + dead + "?master_set=x&addr=" + dead},
		{URL: "unix://bennu:hunter2@/nowhere/redis.sock"},
		{URL: "redis://bennu:hunter2@host.invalid"},
		{URL: "redis://bennu:hunter2@" + e.addr + "x"},
		{URL: "redis://bennu:hunter2@127.0.0.1:port"},
		{URL: "redis://bennu:%hunter2@127.0.0.1"},
		{URL: "redis://bennu:12/hunter2@127.0.0.1"},
		{URL: "redis://bennu:12#hunter2@127.0.0.1"},
		{URL: "redis://bennu:12?hunter2@127.0.0.1"},
		{URL: "redis://bennu:12?db=hunter2@127.0.0.1"},
		{URL: "redis://127.0.0.1/hunter2"},
		{URL: "redis://bennu:hunter2\n@127.0.0.1"},
		{URL: "redis://bennu:hunter2@[::1"},
		{URL: "hunter2://bennu@127.0.0.1"},
		{URL: "bennu:hunter2@127.0.0.1"},
		{URL: "http://bennu:hunter2@127.0.0.1"},
		{Options: both},
		{Options: rueidis.ClientOption{InitAddress: both.InitAddress, Username: "bennu", Password: "hunter2"}},
		{URL: "redis://bennu:hunter2@127.0.0.1", Options: both},
	} {
		cfg.Timeout = brokertest.Timeout
		if _, err := redisengine.New(cfg); err != nil {
			if strings.Contains(fmt.Sprintf("%v %+v %q", err, err, err), "hunter2") {
				t.Errorf("%q: %v", cfg.URL, err)
			}
			continue
		}
		var log brokertest.Log
		a, _ := runWithLog(t, cfg, &log)
		brokertest.WaitUntil(t, "refused: "+cfg.URL, func() bool { return strings.Contains(log.String(), "not connected") })
		if all := fmt.Sprint(a.Health(), a.Health().Err, log.String()); strings.Contains(all, "hunter2") {
			t.Errorf("%q: %s", cfg.URL, all)
		}
		var historyLog brokertest.Log
		logger := zerolog.New(&historyLog)
		cfg.Logger = &logger
		n := runLog(t, cfg)
		n.Watch("t", func(err error) { _, _ = fmt.Fprintln(&historyLog, "ready:", err) })
		brokertest.WaitUntil(t, "refused: "+cfg.URL, func() bool {
			return strings.Contains(historyLog.String(), "unavailable") && strings.Contains(historyLog.String(), "ready:")
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := n.Append(ctx, "t", history.Record{Event: "e"}, keep)
		cancel()
		if all := fmt.Sprint(err, n.Health().Err, historyLog.String()); strings.Contains(all, "hunter2") || err == nil {
			t.Errorf("%q: %s", cfg.URL, all)
		}
		n.stop()
	}
}
