// SPDX-License-Identifier: BSD-3-Clause
//
// The lane protocol and its repair, for spin. tests/model/test_lane_model.py runs it: this version
// must have no error in its whole state space, each variant that is named below must have one.
//
// Modelled: a slot with two lanes whose indices coincide; for each lane an io core that lends,
// publishes and collects, on a ring whose words and buffers are used again, with indices that wrap.
// A worker that rewrites packets in bursts, killed before any of its stores; its repair, itself cut
// short before any of its stores and started again, while both io cores run on; then a successor,
// or none: what is left is handed back, waits in the io core ahead of newer packets of its flow, and
// is lent again. One flow a lane. Packets have numbers; their bytes are two halves, each of which
// carries the packet's number and how often it was changed.
//
// With STATE, the packets' bytes stay, and each packet adds one to a count that outlives the worker,
// after one to another: two pieces, saved, counted, changed, one after the other. They lie with the
// slot; those of a bucket are put back the same way, before anybody else has the bucket.
//
// With EMIT, the packets' bytes stay too, and each packet fills a blank, if one is lent: its word in the
// ring of blanks, then its bytes. What it filled leaves with the packet, ahead of it, and the buffer is
// lent again.
//
// With TICK and STATE, each io core also lends ticks, one after the other, which count as packets do. It has
// noted which index is one. One that comes back from a dead worker as REQUEUE is skipped.
//
// Checked: each packet is delivered once, in order, changed once, by a verdict of its own; nobody
// touches a buffer after its collection; the io core finds what it may trust. And, with bounds on
// packets and kills: every run comes to an end (no cycle), and nothing is left undelivered at it.
//
// Not modelled: stores out of program order. What a killed process leaves is a prefix of its stores
// (x86: retired stores survive), what live ones see of each other is TSO, in which a reader that
// sees an index sees the words before it; so the compiler's order is all that the C code must keep.
// Nor wild writes, corrupt slots, chains of groups, which deaths a packet is to blame for (POISON: any),
// when a death is certain. A successor that dies on its way to the slot has made no store: a kill
// before its first one.
//
// By hand:     spin -a lane.pml && cc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -m1000000
// a variant:   spin -DNO_UNDO -a lane.pml && cc -DSAFETY -DBFS -o pan pan.c && ./pan
//              and its story: spin -DNO_UNDO -t -p -g lane.pml
// no cycle:    spin -a lane.pml && cc -O2 -DNP -o pan pan.c && ./pan -l -m1000000
// -DENDLESS:   kills without end, and so no check of the end
// -DBRIEF:     the bytes and their stamp are one store, as of plugins that change at most DPS_BRIEF
// -DPOISON:    a repair may set the packet in hand aside
//
// Variants, each wrong (the test says why): NO_UNDO STAMP_FIRST STAMP_NO_LANE VERDICT_EARLY DONE_EARLY
// CREDIT_ON_DONE PUBLISH_EARLY NOTE_LATE NO_SCAN SCAN_ON NO_CLEAR CLEAR_EARLY CLEAR_PER_LANE
// REQUEUE_AFRESH NO_DRAIN; with STATE: NO_UNTOUCH TOUCH_FIRST TOUCH_AFRESH TOUCH_KEPT; with POISON:
// ASIDE_EARLY ASIDE_ANY HAND_KEPT; with EMIT: FILL_LATE TAKEN_LATE TAKEN_EARLY NO_TAKEN LENT_EARLY;
// with TICK: TICK_EARLY TICK_UNSEEN TICK_KEPT TICK_BY_WORD. DONE_BEFORE_UNDO is right as well: `done = d` shows the io core only what
// is before packet d; what matters is that the undo is complete before a successor or a REQUEUE.

#ifndef SIZE
#define SIZE 2          // words of a lane, a power of two
#endif
#ifndef INDICES
#define INDICES 4       // stands for 2^32; a power of two, at least 2 * SIZE
#endif
#ifndef BURST
#define BURST 2
#endif
#ifndef PACKETS
#define PACKETS 3       // per lane, at most 7
#endif
#ifndef TICKS
#define TICKS 2         // per lane, with TICK
#endif
#ifndef KILLS
#define KILLS 2         // of workers and of repairs
#endif
#define FIRST (INDICES - 1)     // so that every run wraps
#define CREDIT SIZE             // the most that is sound; dpsup lends less

#define NEXT(index) (((index) + 1) & (INDICES - 1))
#define AHEAD(a, b) (((a) - (b)) & (INDICES - 1))
#define AT(index) ((index) & (SIZE - 1))

// A word: a descriptor (0) or a verdict (bit 0), with the number of the packet it belongs to.
#define DESC(number) ((number) << 2)
#define DONE(number) ((number) << 2 | 1)
#define REQUEUE 3
#define TICK_DESC 128
#define TICK_DONE 129
#define ASIDE 255       // QUARANTINE
#define EMITTED 64      // a verdict's: and a blank, the next one
#define IS_DONE(word) ((word) & 1)
#define NUMBER(word) ((word) >> 2 & 7)

// Half of a packet's bytes; + 1 is one change.
#define BYTES(l, number) ((l) << 5 | (number) << 2)
#if defined(STATE) || defined(EMIT)
#define CHANGES 0
#else
#define CHANGES 1
#endif
#define FREE 255        // not lent: nobody may touch it

#ifdef STAMP_NO_LANE
#define STAMP(l, index) (1 + (index))
#else
#define STAMP(l, index) (((l) + 1) << 4 | (index))
#endif

typedef lane_t {
	// In the slot's memory.
	byte word[SIZE];
	byte sent = FIRST;              // by the io core: after the last packet published
	byte done = FIRST;              // by the worker: after the last packet committed
	// The primary's own.
	byte published = FIRST;         // what a repair takes for `sent`
	byte collected = FIRST;
	byte requeue_from;              // what may come back as REQUEUE: one 8-byte store
	byte requeue_n;
	bit away;                       // asked of the io core: feed this slot no more
	bit fed = 1;                    // its answer
	// The packets: buffers by index, and the flow by number.
	byte half1[SIZE] = FREE;
	byte half2[SIZE] = FREE;
	byte next;                      // to be lent
	byte delivered;                 // all before this one
#ifdef EMIT
	byte blanks = FIRST;            // by the io core: after the last blank lent
	byte taken = FIRST;             // by the worker, with done: after the last one filled by then
	byte blank_word[2];             // by the worker
	byte blank[2] = FREE;           // the buffers
	byte came = FIRST;              // the primary's: after the last one that came back filled
#endif
#ifdef TICK
	bit tick[SIZE];                 // the primary's: it is one
	byte ticks = TICKS;             // still to be lent
	bit tick_out;
#endif
	byte again                      // handed back: so many from `delivered` on
};

lane_t lane[2];
byte undo;                      // the stamp; 0: none
byte saved1, saved2;            // undo_bytes
#ifdef POISON
byte hand;                      // the lane and the end of the burst in hand, as a stamp; 0: none
#endif
byte kills = KILLS;
#ifdef STATE
byte count[2];                  // packets, as two pieces of state have it
byte saved_count[2];
byte touched;                   // the stamp of who touched them
byte pieces;                    // so many; one store with the stamp
#ifdef TICK
byte handled;                   // ticks
#endif
#endif

#define L lane[l]

#ifdef ENDLESS
#define MAY_DIE true
#else
#define MAY_DIE kills > 0 -> kills--
#endif

#ifdef CREDIT_ON_DONE
#define OUTSTANDING AHEAD(L.published, L.done)
#else
#define OUTSTANDING AHEAD(L.published, L.collected)
#endif

#ifdef NO_DRAIN
#define DRAINED true
#else
#define DRAINED L.collected == L.published
#endif

// Of the blank with this index, filled for that packet.
#define BLANK_WORD(index, number) (128 | (index) << 3 | (number))
#define EMPTY 254

#ifdef LENT_EARLY
#define BLANKS_OUT AHEAD(L.blanks, L.taken)
#else
#define BLANKS_OUT AHEAD(L.blanks, L.came)
#endif

// The io core's own record says it. What the word says is a worker's.
#if !defined(TICK)
#define IS_TICK(index) false
#elif defined(TICK_BY_WORD)
#define IS_TICK(index) (L.word[AT(index)] == TICK_DONE)
#else
#define IS_TICK(index) L.tick[AT(index)]
#endif

#define WRITE_DESCRIPTOR(index) L.word[AT(index)] = DESC(L.next)

active [2] proctype io_core()
{
	byte l = _pid;
	byte word;

end:
	do
	:: L.fed && L.next < PACKETS && OUTSTANDING < CREDIT ->
		d_step {
			L.half1[AT(L.published)] = BYTES(l, L.next);
			L.half2[AT(L.published)] = BYTES(l, L.next);
#ifndef PUBLISH_EARLY
			WRITE_DESCRIPTOR(L.published);
			L.next = (L.next + 1) & 7
#endif
		}
#ifdef NOTE_LATE
		L.sent = NEXT(L.sent);
		L.published = L.sent;
#else
		L.published = NEXT(L.published);
		L.sent = L.published;
#endif
#ifdef PUBLISH_EARLY
		d_step {
			WRITE_DESCRIPTOR(L.published - 1);
			L.next = (L.next + 1) & 7
		}
#endif

#ifdef TICK
	:: L.fed && L.ticks > 0 && !L.tick_out && OUTSTANDING < CREDIT ->
		d_step {
			L.word[AT(L.published)] = TICK_DESC;
			L.tick[AT(L.published)] = 1;
			L.tick_out = 1;
			L.ticks--
		}
		L.published = NEXT(L.published);
		L.sent = L.published;

	:: L.done != L.collected && IS_TICK(L.collected) -> d_step {
		word = L.word[AT(L.collected)];
		assert(IS_DONE(word));
		handled = (word == TICK_DONE -> handled + 1 : handled);
		L.tick[AT(L.collected)] = 0;
		L.tick_out = 0;
		L.collected = NEXT(L.collected);
		word = 0
	   }
#endif

	:: L.done != L.collected && !IS_TICK(L.collected) -> d_step {
		assert(AHEAD(L.done, L.collected) <= AHEAD(L.published, L.collected));
		word = L.word[AT(L.collected)];
		assert(IS_DONE(word));
		assert(L.half1[AT(L.collected)] == L.half2[AT(L.collected)]);
		if
		:: word == REQUEUE ->
			assert(AHEAD(L.collected, L.requeue_from) < L.requeue_n);
			assert(L.half1[AT(L.collected)] ==
			       BYTES(l, (L.delivered + L.again) & 7));
			L.again++
		:: word == ASIDE ->
			assert(L.again == 0);
			assert(L.half1[AT(L.collected)] == BYTES(l, L.delivered));
			L.delivered = (L.delivered + 1) & 7
		:: else ->
			assert(L.again == 0);
			assert(NUMBER(word) == L.delivered);
			assert(L.half1[AT(L.collected)] == BYTES(l, L.delivered) + CHANGES);
#ifdef EMIT
			if
			:: word & EMITTED ->
				assert(L.came != L.blanks);
				assert(L.blank_word[L.came & 1] == BLANK_WORD(L.came, L.delivered));
				assert(L.blank[L.came & 1] == L.delivered);
				L.blank[L.came & 1] = FREE;
				L.came = NEXT(L.came)
			:: else
			fi;
#endif
			L.delivered = (L.delivered + 1) & 7
		fi;
		L.half1[AT(L.collected)] = FREE;
		L.half2[AT(L.collected)] = FREE;
		L.collected = NEXT(L.collected);
		if      // forgotten when all is back, for fewer states
		:: AHEAD(L.collected, L.requeue_from) == L.requeue_n ->
			L.requeue_from = 0;
			L.requeue_n = 0
		:: else
		fi;
		word = 0
	   }

#ifdef EMIT
	:: d_step {
		BLANKS_OUT < 2 ->
		L.blank[L.blanks & 1] = EMPTY;
		L.blanks = NEXT(L.blanks)
	   }
#endif

	:: d_step { L.away && L.fed -> L.fed = 0 }

	:: d_step {
		!L.away && !L.fed && DRAINED ->
		L.next = (L.again > 0 -> L.delivered : L.next);
		L.again = 0;
		L.fed = 1
	   }
	od
}

// Before each store of a worker or of a repair, its end. What follows is a repair from the start.
// Registers (l, index, stop) go with a store, as nobody sees them move.
#ifdef EMIT
#define FORGET t = 0; fills = 0
#define BEGIN t = L.taken
#else
#define FORGET
#define BEGIN
#endif
#define CUT_SHORT atomic { MAY_DIE; l = 0; index = 0; stop = 0; FORGET; goto repair }
#define STORE(what) if :: d_step { what } :: CUT_SHORT fi

#define WORK_ON(k) atomic { \
	lane[k].sent != lane[k].done -> \
	l = k; \
	index = L.done; \
	BEGIN; \
	stop = (AHEAD(L.sent, index) > BURST -> (index + BURST) & (INDICES - 1) : L.sent) }

#define CHANGE(half) STORE( \
	assert(half[AT(index)] != FREE); \
	half[AT(index)] = half[AT(index)] + 1)
#define RESTORE(half, saved) STORE( \
	assert(half[AT(index)] != FREE); \
	half[AT(index)] = saved)
#define SAVE \
	STORE(saved1 = L.half1[AT(index)]); \
	STORE(saved2 = L.half2[AT(index)])

#ifdef STATE
// What dps_touch does, then the change. A piece is counted and stamped in one store, after it is saved.
#define COUNTED (touched == STAMP(l, index) -> pieces : 0)
#define SAVE_PIECE(k) STORE(saved_count[k] = count[k])
#ifdef TOUCH_AFRESH
#define COUNT_PIECE(k) STORE(touched = STAMP(l, index); pieces = 1)
#else
#define COUNT_PIECE(k) STORE(assert(COUNTED == k); touched = STAMP(l, index); pieces = k + 1)
#endif
#ifdef TOUCH_FIRST
#define TOUCH(k) COUNT_PIECE(k); SAVE_PIECE(k); STORE(count[k]++)
#else
#define TOUCH(k) SAVE_PIECE(k); COUNT_PIECE(k); STORE(count[k]++)
#endif
#endif
#define SET_STAMP STORE(undo = STAMP(l, index))
#define SAVE_BRIEF STORE( \
	saved1 = L.half1[AT(index)]; \
	saved2 = L.half2[AT(index)]; \
	undo = STAMP(l, index))
#define SET_VERDICT L.word[AT(index)] = VERDICT(L.word[AT(index)])
#ifdef TICK
#define VERDICT(word) (word == TICK_DESC -> TICK_DONE : DONE(NUMBER(word)))
#else
#define VERDICT(word) DONE(NUMBER(word))
#endif

#ifdef TICK_UNSEEN
#define IS_VERDICT(word) IS_DONE(word) && word != TICK_DONE
#else
#define IS_VERDICT(word) IS_DONE(word)
#endif
#ifdef TICK_KEPT
#define PUTS_BACK(index) L.word[AT(index)] != TICK_DESC
#else
#define PUTS_BACK(index) true
#endif

// A verdict as if a worker had said so, once the bytes are as they came. Only a packet of the burst in
// hand is to blame for anything: of others, one that is published and not sent yet would put `done`
// ahead of `sent`, and one that is being handed back would overtake.
#ifdef ASIDE_ANY
#define MAY_BLAME index != L.published
#else
#define MAY_BLAME hand >> 4 == l + 1 && LEFT_OF_HAND > 0 && LEFT_OF_HAND <= BURST
#endif
#define LEFT_OF_HAND AHEAD(hand & (INDICES - 1), index)
#define SET_ASIDE \
	if \
	:: MAY_BLAME -> STORE(L.word[AT(index)] = ASIDE) \
	:: true \
	fi
#define SKIP_ASIDE \
	if \
	:: index != L.published && L.word[AT(index)] == ASIDE -> index = NEXT(index) \
	:: else \
	fi

#ifdef SCAN_ON
#define WITHIN true
#else
#define WITHIN index != L.published
#endif

#ifdef REQUEUE_AFRESH
#define REQUEUE_FROM L.done
#else
#define REQUEUE_FROM L.collected
#endif

active proctype slot()
{
	byte l, index, stop;
	bit nobody;             // no successor: hand back
#ifdef EMIT
	byte t;                 // blanks, up to here
	bit fills;              // the packet in hand
#endif

end_worker:
	if
	:: WORK_ON(0)
	:: WORK_ON(1)
	:: CUT_SHORT
	fi;
#ifdef POISON
	STORE(hand = STAMP(l, stop));
#endif
	do
	:: atomic { index != stop -> assert(!IS_DONE(L.word[AT(index)])) };
#ifdef STATE
		TOUCH(0);
#ifdef TICK_EARLY
		if
		:: L.word[AT(index)] == TICK_DESC -> STORE(SET_VERDICT)
		:: else
		fi;
#endif
		TOUCH(1);
#elif defined(EMIT)
		fills = t != L.blanks;
#ifdef FILL_LATE
		STORE(L.word[AT(index)] = DONE(NUMBER(L.word[AT(index)])) | (fills -> EMITTED : 0));
#endif
		if
		:: fills ->
			STORE(L.blank_word[t & 1] = BLANK_WORD(t, NUMBER(L.word[AT(index)])));
			STORE(assert(L.blank[t & 1] != FREE);
			      L.blank[t & 1] = NUMBER(L.word[AT(index)]))
		:: else
		fi;
#else
#if defined(BRIEF)
		SAVE_BRIEF;
#elif defined(STAMP_FIRST)
		SET_STAMP;
		SAVE;
#else
		SAVE;
		SET_STAMP;
#endif
		CHANGE(L.half1);
#ifdef VERDICT_EARLY
		STORE(SET_VERDICT);
#endif
		CHANGE(L.half2);
#endif
#ifdef DONE_EARLY
		STORE(L.done = NEXT(index));
#endif
#ifdef EMIT
		STORE(
			L.word[AT(index)] = DONE(NUMBER(L.word[AT(index)])) | (fills -> EMITTED : 0);
			t = (fills -> NEXT(t) : t);
			index = NEXT(index))
#else
		STORE(SET_VERDICT; index = NEXT(index))         // the packet's commit
#endif
	:: index == stop -> break
	od;
#if !defined(EMIT)
	STORE(L.done = stop; index = 0; stop = 0);
#elif defined(TAKEN_LATE)
	STORE(L.done = stop);
	STORE(L.taken = t; index = 0; stop = 0; FORGET);
#elif defined(TAKEN_EARLY)
	STORE(L.taken = t);
	STORE(L.done = stop; index = 0; stop = 0; FORGET);
#else
	STORE(L.done = stop; L.taken = t; index = 0; stop = 0; FORGET);
#endif
	goto end_worker;

repair:
	do
	:: atomic { l < 2 -> index = L.done; BEGIN };
#ifndef NO_SCAN
		do
		:: atomic { WITHIN && IS_VERDICT(L.word[AT(index)]) ->
#if defined(EMIT) && !defined(NO_TAKEN)
			t = (L.word[AT(index)] & EMITTED -> NEXT(t) : t);
#endif
			index = NEXT(index) }
		:: else -> break
		od;
#endif
#ifdef DONE_BEFORE_UNDO
		STORE(L.done = index);
#endif
#ifdef ASIDE_EARLY
		SET_ASIDE;
#endif
#ifndef NO_UNDO
		if
		:: index != L.published && undo == STAMP(l, index) ->
#ifdef CLEAR_EARLY
			STORE(undo = 0);
#endif
			RESTORE(L.half1, saved1);
			RESTORE(L.half2, saved2)
		:: else
		fi;
#endif
#if defined(STATE) && !defined(NO_UNTOUCH)
		if
		:: index != L.published && PUTS_BACK(index) && COUNTED == 2 ->
			STORE(count[1] = saved_count[1]);
			STORE(count[0] = saved_count[0])
		:: index != L.published && PUTS_BACK(index) && COUNTED == 1 -> STORE(count[0] = saved_count[0])
		:: else
		fi;
#endif
#if defined(POISON) && !defined(ASIDE_EARLY)
		SET_ASIDE;
#endif
#ifdef POISON
		SKIP_ASIDE;
#endif
#ifdef CLEAR_PER_LANE
		STORE(undo = 0);
#endif
#ifdef EMIT
		STORE(L.done = index; L.taken = t; l++; FORGET)
#else
		STORE(L.done = index; l++)
#endif
	:: l == 2 -> break
	od;
#ifdef NO_CLEAR
	l = 0;
#else
	STORE(undo = 0; l = 0);
#endif
#if defined(POISON) && !defined(HAND_KEPT)
	STORE(hand = 0);
#endif
#if defined(STATE) && !defined(TOUCH_KEPT)
	STORE(touched = 0; pieces = 0);
#endif
	if
	:: !nobody -> goto end_worker
	:: nobody = 1
	fi;

	// No successor. The io cores' answer comes between two bursts: nothing is half published.
	atomic { lane[0].away = 1; lane[1].away = 1 };
	!lane[0].fed && !lane[1].fed;
	do
	:: l < 2 ->
		// What may come back as REQUEUE: from `collected` on, not from `done`, as an earlier
		// try's may not be collected yet.
		index = L.done;
		if
		:: index != L.published -> STORE(
			L.requeue_from = REQUEUE_FROM;
			L.requeue_n = AHEAD(L.published, L.requeue_from))
		:: else
		fi;
		do
		:: index != L.published -> STORE(L.word[AT(index)] = REQUEUE; index = NEXT(index))
		:: else -> break
		od;
		STORE(L.done = index; l++)
	:: l == 2 -> break
	od;
	atomic { l = 0; index = 0; nobody = 0; lane[0].away = 0; lane[1].away = 0 };
	goto end_worker
}

#ifndef ENDLESS
active proctype at_the_end()
{
	timeout -> assert(lane[0].delivered == PACKETS && lane[1].delivered == PACKETS);
#ifdef STATE
#ifdef TICK
	assert(lane[0].ticks == 0 && lane[1].ticks == 0 && !lane[0].tick_out && !lane[1].tick_out);
	assert(count[0] == 2 * PACKETS + handled && count[1] == 2 * PACKETS + handled)
#else
	assert(count[0] == 2 * PACKETS && count[1] == 2 * PACKETS)
#endif
#endif
}
#endif
