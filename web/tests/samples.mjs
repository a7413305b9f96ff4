/** Sample contents and status for the mock node: varied scripts, states, priorities and codecs. */

export const PUBLISHER = '7c1f0a94be5d2368f0417bd9a5ce83126e9f04d7b8a1c3522f6de094b7a81e35';
const OTHER = 'e20b6d17a9f4c8350b71e6d29f8a4c13570ec9b28d64fa1730c5be92a6d8471f';

const HOUR = 3_600_000;
const from = (ms) => new Date(Date.now() + ms).toISOString();

/** A rendition; height null makes it audio. */
export function rendition(name, height, more = {}) {
  const width = height ? Math.round((height * 16) / 9) : null;
  return {
    name,
    mime_type: 'video/mp2t',
    segment_count: 12,
    bandwidth: height ? height * 2_600 : 96_000,
    codecs: height ? 'avc1.4d401e,mp4a.40.2' : 'mp4a.40.2',
    width,
    height,
    frame_rate: height ? 25 : null,
    ...more,
  };
}

/** A catalogue entry; `media` names the folder of test media that it plays. */
export function entry(id, more = {}) {
  return {
    content_id: id,
    title: id,
    priority: 'vod',
    segment_count: 12,
    expires_at: from(29 * 24 * HOUR),
    publisher: PUBLISHER,
    version: 1,
    state: 'finished',
    complete: true,
    created: from(-2 * HOUR),
    duration_seconds: 24,
    bytes: 2_400_000,
    pinned: false,
    play_url: `/play/${encodeURIComponent(id)}/index.m3u8`,
    renditions: [rendition('main', 360)],
    media: 'film',
    ...more,
  };
}

/** Six varied contents, as on a node that is in use. */
export function sampleCatalog() {
  return [
    entry('harbour_cam', {
      title: 'Harbour camera, north pier',
      priority: 'live',
      state: 'open',
      media: 'live',
      created: from(-3 * HOUR),
      expires_at: from(0.48 * HOUR),
      bytes: 412_000_000,
      duration_seconds: 1_800,
      renditions: [rendition('main', 720), rendition('low', 360)],
    }),
    entry('lavant_film', {
      title: 'The Lavant: a river that comes back',
      created: from(-5 * HOUR),
      duration_seconds: 3_127,
      bytes: 1_840_000_000,
      segment_count: 522,
      pinned: true,
      renditions: [rendition('main', 1080), rendition('mid', 720), rendition('low', 360)],
    }),
    entry('\u0646\u0634\u0631\u0629', {
      title:
        '\u0646\u0634\u0631\u0629 \u0627\u0644\u0637\u0642\u0633 \u0644\u0644\u0633\u0627\u062d\u0644',
      priority: 'near_live',
      created: from(-1 * HOUR),
      expires_at: from(4.6 * HOUR),
      duration_seconds: 412,
      bytes: 61_000_000,
      complete: false,
      media: 'gappy',
    }),
    entry('clinic_04', {
      title: 'Village clinic, lesson 4: clean water, wound care and when to send for the boat',
      created: from(-26 * HOUR),
      duration_seconds: 1_904,
      bytes: 298_000_000,
      renditions: [rendition('main', 480)],
    }),
    entry('radio', {
      title:
        '\u0420\u0430\u0434\u0438\u043e \u043e\u0441\u0442\u0440\u043e\u0432\u0430, \u043d\u043e\u0447\u043d\u043e\u0439 \u0432\u044b\u043f\u0443\u0441\u043a',
      created: from(-30 * HOUR),
      duration_seconds: 5_400,
      bytes: 64_800_000,
      media: 'song',
      renditions: [rendition('main', null)],
    }),
    entry('clinic_04', {
      title: 'Clinic lesson 4',
      publisher: OTHER,
      play_url: `/play/${OTHER}/clinic_04/index.m3u8`,
      created: from(-49 * HOUR),
      duration_seconds: 1_880,
      bytes: 142_000_000,
      media: 'hevc',
      renditions: [
        rendition('main', 1080, { codecs: 'hvc1.1.6.L93.B0,mp4a.40.2', mime_type: 'video/mp4' }),
      ],
    }),
  ];
}

/** An upload of a known length. */
export function upload(id, more = {}) {
  return {
    upload_id: `u-${id}`,
    content_id: id,
    title: id,
    segments: 12,
    bytes: 19_000_000,
    duration_seconds: 120,
    expected_seconds: 480,
    idle_seconds: 0.4,
    ...more,
  };
}

/** A status; `uploads` adds two running ingests, of known and of unknown length. */
export function sampleStatus({ uploads = false, busy = uploads } = {}) {
  return {
    node_id: 'pier-1',
    version: '0.1.0',
    publisher: PUBLISHER,
    uptime_seconds: 273_600,
    store: {
      path: '/srv/lavant/store',
      bytes: busy ? 28_180_000_000 : 0,
      limit_bytes: busy ? 64_000_000_000 : null,
      segments: busy ? 4_812 : 0,
      contents: busy ? 6 : 0,
      hot_bytes: busy ? 96_000_000 : 0,
      disk_free_bytes: 212_000_000_000,
    },
    uploads: uploads
      ? [
          upload('tide_tables', { title: 'Tide tables explained', duration_seconds: 296 }),
          upload('deck', { title: 'Deck camera', expected_seconds: null, duration_seconds: 74 }),
        ]
      : [],
    read_only: false,
    warnings: [],
    auth_required: false,
    relay_port: 7778,
  };
}

/** A peer as `/peers` lists it. */
export function samplePeer(address, more = {}) {
  return {
    address,
    node: null,
    name: '',
    source: 'named',
    state: 'waiting',
    link: null,
    error: null,
    failures: 0,
    retry_seconds: null,
    received_bytes: 0,
    sent_bytes: 0,
    rate: 0,
    round_trip_ms: null,
    ...more,
  };
}

/** A ship that is met, one that does not answer, one that was seen on the network. */
export const samplePeers = () => [
  samplePeer('harbour.example:7778', {
    error:
      'harbour.example:7778 does not answer; check that it runs and that nothing blocks its port',
    retry_seconds: 41.2,
  }),
  samplePeer('192.0.2.17:7778', {
    name: 'ferry-2',
    node: PUBLISHER,
    state: 'connected',
    link: 'quic',
    received_bytes: 1_840_000_000,
    sent_bytes: 62_000_000,
    rate: 4_200_000,
    round_trip_ms: 23.7,
  }),
  samplePeer('[2001:db8::5]:7778', { name: 'clinic', state: 'away', sent_bytes: 9_000 }),
];

/** A live stream as `/api/v1/live` lists it. */
export const liveStream = (name, more = {}) => ({
  name,
  version: 1,
  state: 'live',
  by: 'rtmp',
  since: from(-0.2 * HOUR),
  play: `/play/${encodeURIComponent(name)}/index.m3u8`,
  codecs: 'avc1.4d401f,mp4a.40.2',
  width: 1280,
  height: 720,
  bit_rate: 2_400_000,
  key_seconds: 2,
  dropped: 0,
  drift: 0.01,
  left_out: [],
  source: null,
  forwards: [],
  frames: 18_000,
  seconds: 720,
  stored: 0,
  lost: 0,
  fault: null,
  target_duration: 2,
  part_target: 0.3,
  error: null,
  low_latency: true,
  ...more,
});
