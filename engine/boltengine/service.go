package boltengine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"bennu.example/history"
	"bennu.example/internal/safecall"
)

// service is what the log and the store of objects have in common: they read the file, Run is
// called once and ends, they are available or not, and watches become ready.
type service struct {
	store  *store
	logger *zerolog.Logger
	name   string // in messages

	closing chan struct{} // closed by end
	ended   chan struct{} // closed when Run has ended
	wake    chan struct{} // of the feeder; has room for one signal

	mu     sync.Mutex
	began  bool // Run was called
	closed bool
	health history.Health
	ready  map[string]func(error) // of the watches that are not ready
}

// init sets the fields. The service is unavailable because of err until Run is called.
func (s *service) init(store *store, logger *zerolog.Logger, name string, err error) {
	s.store, s.logger, s.name = store, logger, name
	s.closing, s.ended, s.wake = make(chan struct{}), make(chan struct{}), make(chan struct{}, 1)
	s.health = history.Health{Since: time.Now(), Err: err}
	s.ready = make(map[string]func(error))
}

// start is called by Run. If the error is nil, the caller must close ended.
func (s *service) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return unavailable(errClosed)
	case s.began:
		return errRunTwice
	}
	s.began = true
	return nil
}

// end ends Run, if it runs. It reports false if it was called before.
func (s *service) end() bool {
	s.mu.Lock()
	began, closed := s.began, s.closed
	s.began, s.closed = true, true
	s.mu.Unlock()
	if closed {
		return false
	}
	close(s.closing)
	if began {
		<-s.ended
	}
	s.setHealth(errClosed)
	return true
}

// read calls f in a read transaction.
func (s *service) read(ctx context.Context, f func(tx *bolt.Tx) error) error {
	if ctx.Err() != nil {
		return unavailable(context.Cause(ctx))
	}
	err := s.store.view(f)
	switch {
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return unavailable(errClosed)
	case errors.Is(err, errDamaged):
		return unavailable(err)
	}
	return err
}

// setHealth records whether the service works. It reports whether that is new.
func (s *service) setHealth(err error) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = s.health.Connected != (err == nil)
	if changed {
		s.health.Connected, s.health.Since = err == nil, time.Now()
	}
	s.health.Err = err
	return changed
}

// report records and logs the result of a transaction.
func (s *service) report(err error) {
	if !s.setHealth(err) {
		return
	}
	if err == nil {
		s.logger.Info().Str("path", s.store.path).Msg(s.name + " available")
		return
	}
	e := s.logger.Error().Str("path", s.store.path).Err(err)
	if p, ok := errors.AsType[*safecall.PanicError](err); ok {
		e = e.Bytes("stack", p.Stack)
	}
	e.Msg(s.name + " unavailable")
}

// signal wakes the feeder.
func (s *service) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // the feeder has not seen the last signal yet
	}
}

// callReady calls the functions of new watches.
func (s *service) callReady() {
	for {
		var ready func(error)
		s.mu.Lock()
		for name, f := range s.ready {
			ready = f
			delete(s.ready, name)
			break
		}
		s.mu.Unlock()
		if ready == nil {
			return
		}
		ready(nil)
	}
}
