package main

import (
	"context"
	"fmt"
	"sync"
)

// A stage is a set of parts that stop together. Stages are stopped one after the other, in the order in which samples flow, so
// that what the one has taken in still gets through the next (see serve.go).
type stage struct {
	ctx    context.Context
	cancel context.CancelFunc
	failed context.CancelCauseFunc
	group  sync.WaitGroup
}

// newStage returns a stage that lives on when ctx ends, until stop. A part that fails, or ends by itself, tells failed.
func newStage(ctx context.Context, failed context.CancelCauseFunc) *stage {
	s := &stage{failed: failed}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s
}

// run starts a part. stop waits for it.
func (s *stage) run(name string, f func(context.Context) error) {
	s.group.Go(func() {
		err := f(s.ctx)
		switch {
		case s.ctx.Err() != nil && err == nil:
		case err != nil:
			s.failed(fmt.Errorf("%s: %w", name, err))
		default:
			s.failed(fmt.Errorf("%s ended by itself", name))
		}
	})
}

// stop ends the parts and waits for them. It may be called again.
func (s *stage) stop() {
	s.cancel()
	s.group.Wait()
}
