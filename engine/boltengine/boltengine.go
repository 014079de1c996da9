package boltengine

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/rs/zerolog"

	"bennu.example/history"
	"bennu.example/logging"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/state"
	"bennu.example/will"
)

// Config configures an Engine.
type Config struct {
	// Path is the name of the file. New creates it if it does not exist; its directory must exist.
	Path string
	// NoSync does not wait for the disk. Broadcasts are faster, but an unclean end loses the log: see
	// the package documentation. While a process uses the file in this way, there is a second, empty
	// file, whose name is Path with ".nosync" appended.
	NoSync bool
	// MaxObjects bounds the number of shared objects. Beyond it, creating one fails with
	// state.ErrQuota. Zero means no bound but that of the disk.
	MaxObjects int
	// Logger receives what an operator should know, but never payloads. Nil means warnings and errors
	// on standard error; zerolog.Nop is silent.
	Logger *zerolog.Logger
}

// Engine is a history in a file. Its creator must call Close.
type Engine struct {
	log     *log
	objects *objects
	wills   will.Store
	once    *onceStore
}

// ErrInUse reports that another process, or another Engine, uses the file.
var ErrInUse = errors.New("the file is in use by another process")

// New opens the file. The error wraps ErrInUse if the file is in use.
func New(cfg Config) (*Engine, error) {
	if cfg.Path == "" {
		return nil, errors.New("boltengine: Config.Path is empty")
	}
	s, err := openStore(historyFile, cfg.Path, cfg.NoSync)
	if err != nil {
		return nil, err
	}
	w, err := openWills(s, 0)
	var once *onceStore
	if err == nil {
		once, err = openOnce(s)
	}
	if err != nil {
		_ = s.release()
		return nil, fmt.Errorf("boltengine: open %s: %w", cfg.Path, err)
	}
	logger := cmp.Or(cfg.Logger, logging.Default())
	return &Engine{newLog(s, logger), newObjects(s, logger, cfg.MaxObjects), w, once}, nil
}

// Adapter returns nil: there are no other nodes.
func (e *Engine) Adapter() pubsub.Adapter { return nil }

// History returns the log for pubsub.NewRecorded. Every call returns the same log. One PubSub may
// use it.
func (e *Engine) History() history.Log { return e.log }

// Wills returns the store for socket.Config.Wills. Every call returns the same store. It can be
// used until Close, whether PubSub.Run runs or not. When the file is opened, the connections of the
// process before have ended, so that their wills are due after their time from then on. Each change
// waits for the disk; clients that join only do not change the file.
func (e *Engine) Wills() will.Store { return e.wills }

// Once returns the store for push.OnceConfig. Every call returns the same store. It can be used
// until Close, whether PubSub.Run runs or not. It is that of push.NewOnceMemory(0), with the
// replies in the file as well: Finish returns when the disk has the reply. When the file is opened,
// the windows begin anew, and pushes that the process before was handling can be handled again.
// After a commit has failed, Begin fails until one succeeds.
func (e *Engine) Once() push.OnceStore { return e.once }

// State returns the store of shared objects for state.New. Every call returns the same store. One
// state.Objects may use it, whose Run must be called: writes wait until it runs. Objects can be
// read until Close.
func (e *Engine) State() state.Store { return e.objects }

// Close closes the file. Call it after PubSub.Run and Objects.Run have returned. If they run still,
// Close ends them: appends and writes that wait are stored, and Run returns nil. After Close the
// log and the stores are unavailable. Close may be called more than once.
func (e *Engine) Close() error {
	e.objects.close()
	e.once.close()
	return e.log.close()
}
