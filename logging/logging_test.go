package logging_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"bennu.example/internal/testenv/leak"
	"bennu.example/logging"
)

func TestMain(m *testing.M) { leak.Main(m) }

// recorder is a slog.Handler that keeps its records.
type recorder struct {
	level   slog.LevelVar
	err     error
	records []slog.Record
}

func (r *recorder) Enabled(_ context.Context, l slog.Level) bool { return l >= r.level.Level() }

func (r *recorder) Handle(_ context.Context, record slog.Record) error {
	r.records = append(r.records, record)
	return r.err
}

func (r *recorder) WithAttrs([]slog.Attr) slog.Handler { return r }
func (r *recorder) WithGroup(string) slog.Handler      { return r }

// attrs returns the fields of the only record.
func (r *recorder) attrs(t *testing.T) (all []slog.Attr) {
	t.Helper()
	if len(r.records) != 1 {
		t.Fatalf("%d records", len(r.records))
	}
	r.records[0].Attrs(func(a slog.Attr) bool { all = append(all, a); return true })
	return all
}

func TestFromSlogKeepsLevels(t *testing.T) {
	for _, c := range []struct {
		from zerolog.Level
		want slog.Level
	}{
		{zerolog.TraceLevel, slog.LevelDebug - 4},
		{zerolog.DebugLevel, slog.LevelDebug},
		{zerolog.InfoLevel, slog.LevelInfo},
		{zerolog.WarnLevel, slog.LevelWarn},
		{zerolog.ErrorLevel, slog.LevelError},
		{zerolog.FatalLevel, slog.LevelError + 4},
		{zerolog.PanicLevel, slog.LevelError + 8},
		{zerolog.NoLevel, slog.LevelInfo},
	} {
		r := &recorder{}
		r.level.Set(-100)
		logging.FromSlog(slog.New(r)).WithLevel(c.from).Msg("x")
		if len(r.records) != 1 || r.records[0].Level != c.want {
			t.Errorf("%v: %v, want %v", c.from, r.records, c.want)
		}
	}
}

func TestFromSlogKeepsFields(t *testing.T) {
	r := &recorder{}
	l := logging.FromSlog(slog.New(r)).With().Timestamp().Str("node", "a\"\n\u202e").Logger()
	l.Warn().
		Int64("least", math.MinInt64).Uint64("most", math.MaxUint64).Float64("ratio", 0.25).
		Bool("ok", true).Any("none", nil).
		Err(errors.New("broken pipe")).
		Dict("outer", zerolog.Dict().Str("a", "1").Dict("inner", zerolog.Dict().Int("b", 2))).
		Strs("list", []string{"x", "y"}).
		Dict("empty", zerolog.Dict()). // slog leaves out empty groups
		Str("node", "again").
		Msg("join refused")
	want := []slog.Attr{
		slog.String("node", "a\"\n\u202e"),
		slog.Int64("least", math.MinInt64),
		slog.Uint64("most", math.MaxUint64),
		slog.Float64("ratio", 0.25),
		slog.Bool("ok", true),
		slog.Any("none", nil),
		slog.String("error", "broken pipe"),
		slog.Group("outer", "a", "1", slog.Group("inner", "b", 2)),
		slog.Any("list", []any{"x", "y"}),
		slog.String("node", "again"),
	}
	got := r.attrs(t)
	if r.records[0].Message != "join refused" || r.records[0].Time.IsZero() {
		t.Errorf("record %+v", r.records[0])
	}
	if len(got) != len(want) {
		t.Fatalf("%d fields, want %d: %v", len(got), len(want), got)
	}
	for i := range want {
		if got[i].Key == "list" && reflect.DeepEqual(got[i].Value.Any(), want[i].Value.Any()) {
			continue // slices are not comparable, which Equal would need
		}
		if !got[i].Equal(want[i]) {
			t.Errorf("field %d: %v, want %v", i, got[i], want[i])
		}
	}
}

func TestFromSlogKeepsTheOrderOfFields(t *testing.T) {
	var out strings.Builder
	l := logging.FromSlog(slog.New(slog.NewJSONHandler(&out, nil)))
	l.Error().Str("z", "1").Dict("d", zerolog.Dict().Int("y", 2).Int("x", 3)).Str("a", "4").Msg("m")
	const want = `"level":"ERROR","msg":"m","z":"1","d":{"y":2,"x":3},"a":"4"}`
	if !strings.Contains(out.String(), want) {
		t.Errorf("%s, want %s", out.String(), want)
	}
}

func TestFromSlogAsksTheHandlerForEachMessage(t *testing.T) {
	r := &recorder{}
	l := logging.FromSlog(slog.New(r))
	l.Debug().Msg("below the level")
	r.level.Set(slog.LevelDebug)
	l.Debug().Msg("enabled")
	r.level.Set(slog.LevelError)
	l.Warn().Msg("below the level")
	if len(r.records) != 1 || r.records[0].Message != "enabled" {
		t.Errorf("%v", r.records)
	}
}

func TestFromSlogPassesOnWhatItCannotDecode(t *testing.T) {
	for _, field := range []string{`{`, `[1,`, `nonsense`, `1e999999`} {
		r := &recorder{}
		logging.FromSlog(slog.New(r)).Info().RawJSON("raw", []byte(field)).Msg("m")
		if len(r.records) != 1 || !strings.Contains(r.records[0].Message, field) && r.records[0].Message != "m" {
			t.Errorf("%s: %v", field, r.records)
		}
	}
}

func TestFromSlogReportsTheHandlersError(t *testing.T) {
	before := zerolog.ErrorHandler
	defer func() { zerolog.ErrorHandler = before }()
	var got error
	zerolog.ErrorHandler = func(err error) { got = err }
	r := &recorder{err: io.ErrShortWrite}
	logging.FromSlog(slog.New(r)).Warn().Msg("m")
	if !errors.Is(got, io.ErrShortWrite) {
		t.Errorf("%v", got)
	}
}

func TestDefaultWritesWarningsToStandardError(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stderr
	os.Stderr = w
	l := logging.Default()
	os.Stderr = before
	l.Debug().Msg("hidden")
	l.Info().Msg("hidden")
	l.Warn().Str("topic", "a\nb").Msg("join refused")
	l.Error().Str("stack", "goroutine 1 [running]:\nmain.main()\n").Msg("callback crashed")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(out), "\n")
	if len(lines) < 4 || !strings.HasSuffix(lines[0], ` WRN join refused topic="a\nb"`) ||
		!strings.HasSuffix(lines[1], " ERR callback crashed") || lines[3] != "main.main()" ||
		strings.Contains(string(out), "hidden") {
		t.Errorf("%s", out)
	}
}
