package natsengine

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// duplicateWindow is how long the stream recognises an ID.
	duplicateWindow = 2 * time.Minute

	// leastCount and leastAge are what a new stream keeps of a topic. Append extends them when a rule
	// needs more.
	leastCount = 256
	leastAge   = time.Hour

	// The names of the stream's metadata that the log uses.
	metaNonce  = "bennu_nonce"
	metaLimits = "bennu_limits"
)

// The codes of errors of JetStream.
const (
	codeAccountResources  = 10002
	codeUnavailable       = 10008
	codeNotLeader         = 10009
	codeResources         = 10023
	codeMemory            = 10028
	codeNoMessage         = 10037
	codeNotForAccount     = 10039
	codeStorage           = 10047
	codeMessageTooLarge   = 10054
	codeNameExists        = 10058
	codeStreamNotFound    = 10059
	codeWrongLast         = 10071
	codeNotEnabled        = 10076
	codeStoreFailed       = 10077
	codeHeaderTooLarge    = 10097
	codeOffline           = 10118
	codeDuplicateRunning  = 10158
	codeWrongLastConstant = 10164
	codeTooManyRequests   = 10167
)

var (
	errNoJetStream = errors.New("JetStream is not enabled at the server or for the account")
	errNotOurs     = errors.New("the stream belongs to something else")
	errNewEpoch    = errors.New("the stream was replaced")
	errNewLeader   = errors.New("the stream has another leader")
)

// apiError is an error of JetStream.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("JetStream: %s (%d)", e.Description, e.ErrCode) }

// hasCode reports whether err is an error of JetStream with one of these codes.
func hasCode(err error, codes ...int) bool {
	var e *apiError
	if errors.As(err, &e) {
		for _, c := range codes {
			if e.ErrCode == c {
				return true
			}
		}
	}
	return false
}

// limits is what the stream keeps, as its metadata has it.
//
// A beginning can be continued only if nothing of the topic was removed since. The number of
// messages shows that: it is below the limit. But the limit may have been lower before, so the
// metadata has the lowest one, and the sequence since which the present one holds.
type limits struct {
	count int           // messages of a topic: one more than its records, the predecessor of the oldest
	age   time.Duration // the largest age of a rule
	least int           // the lowest count that the stream ever had
	since uint64        // no message after this sequence was removed by a lower count
}

func (l limits) String() string {
	return fmt.Sprintf("%d %d %d %d", l.count, l.age.Milliseconds(), l.least, l.since)
}

func parseLimits(s string) (l limits, ok bool) {
	var ms int64
	n, err := fmt.Sscanf(s, "%d %d %d %d", &l.count, &ms, &l.least, &l.since)
	l.age = time.Duration(ms) * time.Millisecond
	return l, err == nil && n == 4
}

// bound returns the number of messages below which nothing was removed of a topic that was empty at
// a sequence.
func (l limits) bound(seq uint64) uint64 {
	if seq >= l.since {
		return uint64(l.count)
	}
	return uint64(l.least)
}

// maxAge returns how long the stream keeps a message. The newest record of a topic outlives its
// age, so that a client can continue after it.
func (l limits) maxAge() time.Duration { return max(10*l.age, 24*time.Hour) }

// streamState is what is known of the stream.
type streamState struct {
	epoch    string
	leader   string
	replicas int
	limits   limits
	newest   uint64    // the newest landmark
	oldest   uint64    // the oldest one
	checked  time.Time // when it was looked at; zero: it must be looked at
	created  time.Time // when the stream was created, by the server's clock
	foreign  bool      // a record of a node that knows another stream was not delivered
}

// streamInfo is the answer to requests about the stream. The configuration keeps what the log does
// not know.
type streamInfo struct {
	Error   *apiError      `json:"error"`
	Config  map[string]any `json:"config"`
	Created string         `json:"created"`
	Now     time.Time      `json:"ts"`
	State   struct {
		LastSeq uint64 `json:"last_seq"`
	} `json:"state"`
	Total   int `json:"total"` // of the subjects, if a request asks for a page of them
	Cluster struct {
		Leader string `json:"leader"`
	} `json:"cluster"`
}

// streamName returns the name of the stream for a prefix of subjects. Other than subjects, it may
// not contain dots.
func streamName(prefix string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_'
	}
	if len(prefix) <= maxToken && strings.IndexFunc(prefix, func(r rune) bool { return !plain(r) }) < 0 {
		return prefix
	}
	name := strings.Map(func(r rune) rune {
		if plain(r) {
			return r
		}
		return '_'
	}, prefix[:min(len(prefix), maxToken)])
	sum := sha256.Sum256([]byte(prefix))
	return name + "_" + hex.EncodeToString(sum[:4])
}

// ensureStream creates the stream, or corrects its configuration, and returns its state.
func (l *historyLog) ensureStream(ctx context.Context) (streamState, error) {
	l.mu.Lock()
	need := l.need
	l.mu.Unlock()
	info, err := l.streamRequest(ctx, "INFO", struct{}{})
	if hasCode(err, codeStreamNotFound) {
		lim := limits{count: need.count, age: need.age, least: need.count}
		cfg := map[string]any{"name": l.stream, "num_replicas": 1, "storage": "file", "max_bytes": -1}
		l.configure(cfg, lim, newNonce())
		info, err = l.streamRequest(ctx, "CREATE", cfg)
		if hasCode(err, codeNameExists) { // another node was faster
			info, err = l.streamRequest(ctx, "INFO", struct{}{})
		}
		if err == nil {
			l.logger.Info().Str("stream", l.stream).Msg("history stream created")
		}
	}
	if err != nil {
		return streamState{}, err
	}
	if info, err = l.correct(ctx, info, need); err != nil {
		return streamState{}, err
	}
	nonce, lim, _ := l.metadata(info.Config)
	s := streamState{
		epoch: epoch(l.stream, info.Created, nonce), leader: info.Cluster.Leader,
		replicas: integer(info.Config["num_replicas"]), limits: lim, checked: time.Now(),
	}
	err = l.landmarks(ctx, &s)
	return s, err
}

// correct updates the configuration of the stream if it is not what the log needs.
func (l *historyLog) correct(ctx context.Context, info streamInfo, need limits) (streamInfo, error) {
	nonce, lim, ours := l.metadata(info.Config)
	if !ours && !l.hasSubjects(info.Config) {
		return info, fmt.Errorf("%w: stream %s has other subjects than %s", errNotOurs, l.stream, l.subject("*"))
	}
	switch {
	case !ours,
		integer(info.Config["max_msgs_per_subject"]) != lim.count && integer(info.Config["max_msgs_per_subject"]) > 0 &&
			integer(info.Config["max_msgs_per_subject"]) < lim.count,
		integer(info.Config["max_age"]) > 0 && time.Duration(integer(info.Config["max_age"])) < lim.maxAge():
		// Records may have been removed in other ways than this log assumes.
		nonce, lim = newNonce(), limits{count: need.count, age: need.age, least: need.count, since: info.State.LastSeq}
	}
	grows := need.count > lim.count
	want := lim
	want.count, want.age = max(need.count, lim.count), max(need.age, lim.age)
	if grows {
		want.since = 1 << 62 // until the server has confirmed the new limit
	}
	before := encode(info.Config)
	if l.configure(info.Config, want, nonce); encode(info.Config) == before {
		return info, nil
	}
	created := info.Created
	info, err := l.streamRequest(ctx, "UPDATE", info.Config)
	if err != nil {
		return info, err
	}
	info.Created = cmp.Or(info.Created, created)
	l.logger.Info().Str("stream", l.stream).Msg("history stream updated")
	if !grows {
		return info, nil
	}
	want.since = info.State.LastSeq
	if want.since < uint64(want.least) { // too few messages for a limit to have had an effect
		want.least, want.since = want.count, 0
	}
	l.configure(info.Config, want, nonce)
	return l.streamRequest(ctx, "UPDATE", info.Config)
}

// configure sets what the log needs in a configuration. The rest belongs to the operator.
func (l *historyLog) configure(cfg map[string]any, lim limits, nonce string) {
	cfg["subjects"] = []any{l.subject("*")}
	cfg["retention"], cfg["discard"] = "limits", "old"
	cfg["max_msgs"], cfg["max_msg_size"] = jsonNumber(-1), jsonNumber(-1)
	cfg["max_msgs_per_subject"], cfg["max_age"] = jsonNumber(int64(lim.count)), jsonNumber(int64(lim.maxAge()))
	cfg["duplicate_window"] = jsonNumber(int64(duplicateWindow))
	cfg["republish"] = map[string]any{"src": l.subject("*"), "dest": l.prefix + ".r.{{wildcard(1)}}"}
	cfg["allow_direct"], cfg["allow_rollup_hdrs"], cfg["deny_delete"], cfg["deny_purge"] = true, true, true, false
	delete(cfg, "no_ack")
	if l.replicas > 0 {
		cfg["num_replicas"] = jsonNumber(int64(l.replicas))
	}
	if l.maxBytes > 0 {
		cfg["max_bytes"] = jsonNumber(l.maxBytes)
	}
	meta, _ := cfg["metadata"].(map[string]any)
	if meta == nil {
		meta = make(map[string]any)
		cfg["metadata"] = meta
	}
	meta[metaNonce], meta[metaLimits] = nonce, lim.String()
}

func jsonNumber(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

// encode returns a text that is equal for equal configurations.
func encode(cfg map[string]any) string {
	data, _ := json.Marshal(cfg) // never fails: it was decoded
	return string(data)
}

// metadata returns what the log has stored in a configuration. It reports whether it has.
func (l *historyLog) metadata(cfg map[string]any) (nonce string, lim limits, ours bool) {
	meta, _ := cfg["metadata"].(map[string]any)
	nonce, _ = meta[metaNonce].(string)
	text, _ := meta[metaLimits].(string)
	lim, ok := parseLimits(text)
	return nonce, lim, ok && nonce != ""
}

// hasSubjects reports whether a configuration has the subjects of the log.
func (l *historyLog) hasSubjects(cfg map[string]any) bool {
	subjects, _ := cfg["subjects"].([]any)
	for _, s := range subjects {
		if text, _ := s.(string); !strings.HasPrefix(text, l.prefix+".h.") {
			return false
		}
	}
	return len(subjects) > 0
}

func integer(v any) int {
	n, _ := v.(json.Number)
	i, _ := n.Int64()
	return int(i)
}

func newNonce() string { return rand.Text() }

// epoch returns the epoch of the positions. A stream that was replaced has another one.
func epoch(stream, created, nonce string) string {
	sum := sha256.Sum256([]byte(stream + "\n" + created + "\n" + nonce))
	return strings.ToLower(base32.HexEncoding.EncodeToString(sum[:6])[:9])
}

// landmarkSubject is the subject of messages that show how far back the stream is complete.
//
// The stream removes messages for two reasons. Old ones, or the oldest if there are too many bytes,
// are removed from its front, whatever their subjects. And each topic keeps a number of messages.
// The first sequence of the stream does not show how far the first reason has come, because the
// second may have removed the same messages. A landmark does: no other reason removes it. Nothing
// that was stored after a landmark is removed from the front while the landmark exists.
//
// A topic without records has a position, too: its beginning is the newest landmark. All nodes
// agree on it. A new landmark is stored when half of the age of the last one has passed.
func (l *historyLog) landmarkSubject() string { return l.subject("%landmark") }

// landmarks fills in the landmarks of s. It stores a new one if it is time to.
func (l *historyLog) landmarks(ctx context.Context, s *streamState) error {
	for {
		last, ok, err := l.leaderGet(ctx, getRequest{LastFor: l.landmarkSubject()}, s.epoch, true)
		if err != nil {
			return err
		}
		if ok && last.kind == kindLandmark && last.epoch == s.epoch && time.Since(last.at) < s.limits.maxAge()/2 {
			s.newest = last.seq
			break
		}
		// Of several nodes, one succeeds.
		header := nats.Header{nats.ExpectedLastSubjSeqHdr: {strconv.FormatUint(last.seq, 10)}}
		answers, err := l.do(ctx, &request{subject: l.landmarkSubject(), header: header, control: true,
			data: newMarker(kindLandmark, s.epoch)})
		if err == nil {
			_, err = l.parseAck(answers[0])
		}
		if err != nil && !hasCode(err, codeWrongLast, codeWrongLastConstant) {
			return err
		}
	}
	first, err := l.oldestLandmark(ctx, s.epoch, true)
	s.oldest = first
	return err
}

// oldestLandmark returns the sequence of the oldest landmark of this epoch, or a sequence beyond
// all others.
func (l *historyLog) oldestLandmark(ctx context.Context, epoch string, control bool) (uint64, error) {
	m, ok, err := l.leaderGet(ctx, getRequest{Seq: 1, NextFor: l.landmarkSubject()}, epoch, control)
	if err != nil {
		return 0, err
	}
	if !ok || m.kind != kindLandmark || m.epoch != epoch {
		return 1 << 62, nil
	}
	return m.seq, nil
}

// reached reports whether the stream has the limits that are needed.
func (s *streamState) reached(need limits) bool {
	return s.epoch != "" && s.limits.count >= need.count && s.limits.age >= need.age
}

// ack is the answer of the stream to a message.
type ack struct {
	Error     *apiError `json:"error"`
	Stream    string    `json:"stream"`
	Seq       uint64    `json:"seq"`
	Duplicate bool      `json:"duplicate"`
}
