package redisengine

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/history"
)

const (
	// maxWait is how long Append waits for the server, and for a connection.
	maxWait = 2 * time.Second
	// replicaWait is how long replicas may take.
	replicaWait = time.Second

	// maxAppends and maxAppendBytes bound the appends that were not answered, and maxReads the reads.
	maxAppends     = 4096
	maxAppendBytes = 16 << 20
	maxReads       = 4096

	// The bounds of a record, in addition to that of its payload.
	maxTexts  = 32 << 10
	maxID     = 64
	maxOrigin = 40

	// onceFor is how long an ID is recognised, and maxTrims how many records one append removes.
	onceFor  = 2 * time.Minute
	maxTrims = 16

	// A topic's meta lives for metaAges times the age of the records, and at least for metaLife. The
	// meta of a topic that never had a record lives for idleLife after it was watched.
	metaAges = 10
	metaLife = 24 * time.Hour
	idleLife = time.Hour
)

// recordLog implements history.Log. See the package documentation.
type recordLog struct {
	remote

	inbox history.Inbox
}

func newRecordLog(b *backend, prefix string, cfg logConfig, logger *zerolog.Logger) *recordLog {
	l := new(recordLog)
	l.init(b, prefix, cfg, logger)
	l.what, l.space, l.channels = "history log", "h", prefix+":r:"
	l.rehearse, l.fed = l.rehearseScripts, l.deliver
	l.gapped = func(reason error) { l.inbox.Gap(reason) }
	return l
}

// Run is part of history.Log.
func (l *recordLog) Run(ctx context.Context, in history.Inbox) error {
	return l.run(ctx, func() { l.inbox = in })
}

// Watch is part of history.Log.
func (l *recordLog) Watch(topic string, ready func(error)) { l.watch(topic, ready) }

// Unwatch is part of history.Log.
func (l *recordLog) Unwatch(topic string) { l.unwatch(topic) }

// keys returns the keys of a topic for a script. The ID may be empty.
func (l *recordLog) keys(kind, topic, id string) []string {
	key := l.key(kind, topic)
	keys := []string{key + ":m", key + ":s", l.base()}
	if id != "" {
		keys = append(keys, key+":i:"+id)
	}
	return keys
}

// Append is part of history.Log.
func (l *recordLog) Append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (history.Record, error) {
	r, stored, err := l.append(ctx, topic, r, k)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.health.Failed++
		return history.Record{}, l.wrap("append to", topic, err)
	}
	if stored {
		l.health.Appended++
	}
	return r, nil
}

// append appends a record. It reports whether the record was stored, and not found by its ID.
func (l *recordLog) append(
	ctx context.Context, topic string, r history.Record, k history.Keep,
) (_ history.Record, stored bool, err error) {
	k, _ = history.Rules{"*": k}.Rule("") // with its defaults
	r.Position, r.Prev, r.Time = history.Position{}, history.Position{}, time.Time{}
	data, err := r.AppendBinary(nil)
	if err != nil {
		return r, false, err
	}
	if len(r.ID) > maxID || len(r.Origin) > maxOrigin || len(r.Event)+len(r.From) > maxTexts ||
		len(data) > maxAppendBytes {
		return r, false, history.ErrTooLarge
	}
	if r, err = history.ParseRecord(data); err != nil {
		return r, false, err
	}
	size := len(r.Payload.Bytes())
	if size > k.Bytes {
		return r, false, history.ErrTooLarge
	}
	age := max(k.Age.Milliseconds(), 1)
	life := max(metaAges*age, metaLife.Milliseconds())
	wait := "0"
	if l.cfg.wait > 0 {
		wait = "1"
	}
	q := &request{
		script: appendScript,
		keys:   func() []string { return l.keys("h", topic, r.ID) },
		args: []string{
			freshEpoch(), string(data), history.NewTag(), strconv.Itoa(size), strconv.Itoa(k.Count), strconv.Itoa(k.Bytes),
			strconv.FormatInt(age, 10), strconv.FormatInt(life, 10), l.channel(topic),
			strconv.FormatInt(onceFor.Milliseconds(), 10), strconv.Itoa(maxTrims), wait,
		},
		size: len(data) + len(topic),
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	if err := l.writes.do(ctx, q); err != nil {
		return r, false, err
	}
	answer, err := texts(q.answers[0])
	stored = len(answer) < 4
	if err == nil && !stored {
		r, err = history.ParseRecord([]byte(answer[3]))
	}
	if err == nil {
		err = complete(&r, answer[:min(len(answer), 3)]...)
	}
	if err != nil {
		return r, false, fmt.Errorf("%w: %w", history.ErrUncertain, err)
	}
	return r, stored, nil
}

// Forget is part of history.Log.
func (l *recordLog) Forget(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	life := strconv.FormatInt(metaLife.Milliseconds(), 10)
	q := &request{
		script: forgetScript,
		keys:   func() []string { return l.keys("h", topic, "") },
		args:   []string{freshEpoch(), life, l.channel(topic)},
	}
	return l.wrap("forget", topic, l.writes.do(ctx, q))
}
