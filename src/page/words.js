// All texts of the page, in English and Vietnamese, and the chosen language.

const english = {
  noticeLabel: 'Please note',
  notice: 'Not a medical device: it cannot tell you whether you are ill.',
  noticeMore: 'If something on your skin worries you, see a doctor.',
  title: 'A closer look at a photo of skin',
  lead: 'See which classes the model finds likeliest, and where in the photo it looked.',
  drop: 'Start with a photo',
  dropMore: 'Drop it here, paste it, or',
  choose: 'Choose photos',
  examples: 'Or try a drawing:',
  example1: 'Spots',
  example2: 'Patches',
  example3: 'Clear skin',
  takePhoto: 'Take a photo',
  privacy: 'The photo is sent to this server only. It is never stored: each request gets a memory of its own, which is thrown away with the answer.',
  place: 'Where is the photo looked at?',
  onServer: 'On the server',
  onDevice: 'On this device',
  privacyDevice: 'The photo stays on this device: the model runs in this browser, which lets this page fetch nothing but its own files.',
  prove: 'Try to send something from here',
  refused: 'Refused by this browser ({refusal}).',
  notRefused: 'Something was sent: this browser does not enforce the page’s policy. Do not rely on it.',
  loadFirst: 'The model and the program that runs it are loaded once, {size}. Afterwards this page needs no network.',
  loadNow: 'Load now',
  loadingModel: 'Loading the model, {percent}',
  loaded: 'The model is on this device. This page needs no network.',
  unkept: 'This browser had no room to keep the model. It will be loaded again at the next visit.',
  useServer: 'Use the server instead',
  timingDevice: 'It took {words} on this device (decoding {decode} ms, model {inference} ms, heatmap {heatmap} ms; {total} ms in all).',
  details: 'Details',
  photo: 'Photo',
  photoNamed: 'Photo {name}',
  photoWithHeat: 'Photo {name}, with the heatmap of {class} over it',
  unshown: 'This browser cannot show this file.',
  cropNw: 'Top left corner of the crop: move with the arrow keys',
  cropNe: 'Top right corner of the crop: move with the arrow keys',
  cropSw: 'Bottom left corner of the crop: move with the arrow keys',
  cropSe: 'Bottom right corner of the crop: move with the arrow keys',
  cropSays: 'Crop of {width} by {height} per cent of the photo',
  progress: 'Progress',
  cancel: 'Cancel',
  turnLeft: 'Turn left',
  turnRight: 'Turn right',
  whole: 'Whole photo',
  opacity: 'Heatmap over the photo',
  compare: 'Before and after: how much stays uncovered',
  zoom: 'Zoom',
  little: 'little',
  much: 'much',
  basisProbability: 'Red speaks most for “{class}”, blue least.',
  basisLogit: 'Red speaks most for “{class}”, blue least. The model is so sure here that this explains its score before the softmax.',
  ready: 'Ready to look',
  facts: '{name} · {width} × {height} · {size}',
  factsUnshown: '{name} · {size}',
  cropHint: 'Drag the corners to crop: the closer the spot, the better the look.',
  model: 'Model',
  shrink: 'Shrink from {from} to {to} pixels first: quicker; the model may see a small difference',
  token: 'Access token',
  look: 'Look at this photo',
  another: 'Another photo',
  answer: 'What the model finds likeliest',
  answerMore: 'Choose a class to see what speaks for it.',
  answerSays: '{class}: {percent}. {count} classes are listed.',
  unfamiliar: 'The model does not know this kind of photo',
  unfamiliarMore: 'It knows only {basis}, and this photo is not like them. What is listed below is a guess about something it has never seen: do not rely on it.',
  unsure: 'The model is not sure',
  unsureMore: 'No class is likely enough to stand out. A sharper photo, closer and in daylight, may help.',
  familiarMore: 'That the model knows this kind of photo does not mean that its classes are right.',
  noHeatmap: 'No heatmap: {why}.',
  timing: 'It took {words} on the server (decoding {decode} ms, model {inference} ms, heatmap {heatmap} ms; {total} ms in all).',
  moment: 'less than a tenth of a second',
  download: 'Save the picture',
  print: 'Print a report',
  report: '{name}, seen by the model “{title}” on {date}.',
  visit: 'Photos of this visit',
  visitMore: 'Kept in this tab only, until you close it or forget them.',
  table: 'Save as a table',
  forget: 'Forget them all',
  ofSeveral: 'Photo {at} of {count}.',
  curl: 'Copy as curl',
  copied: 'Copied. It posts the file as it is on your device, not cropped or turned.',
  sending: 'Sending the photo, {percent}',
  looking: 'The model is looking…',
  preparing: 'Getting the photo ready…',
  cancelled: 'Cancelled. The photo is still here.',
  shutter: 'Take it',
  cameraTurn: 'Other camera',
  footer: 'Free software, Apache-2.0.',
  api: 'How to call it from a program (OpenAPI)',
};

const vietnamese = {
  noticeLabel: 'Xin lưu ý',
  notice: 'Đây không phải thiết bị y tế: nó không thể cho biết bạn có bệnh hay không.',
  noticeMore: 'Nếu có điều gì trên da khiến bạn lo lắng, hãy đi khám bác sĩ.',
  title: 'Nhìn kỹ hơn một bức ảnh da',
  lead: 'Xem mô hình thấy nhóm nào có khả năng nhất, và nó đã nhìn vào đâu trong ảnh.',
  drop: 'Bắt đầu với một bức ảnh',
  dropMore: 'Kéo thả ảnh vào đây, dán ảnh, hoặc',
  choose: 'Chọn ảnh',
  examples: 'Hoặc thử một hình vẽ:',
  example1: 'Nốt',
  example2: 'Mảng',
  example3: 'Da lành',
  takePhoto: 'Chụp ảnh',
  privacy: 'Ảnh chỉ được gửi đến máy chủ này và không bao giờ được lưu lại: mỗi yêu cầu có một vùng nhớ riêng, bị xóa bỏ ngay khi trả lời xong.',
  place: 'Ảnh được xem ở đâu?',
  onServer: 'Trên máy chủ',
  onDevice: 'Trên thiết bị này',
  privacyDevice: 'Ảnh ở lại trên thiết bị này: mô hình chạy ngay trong trình duyệt, và trình duyệt chỉ cho trang này tải các tệp của chính nó.',
  prove: 'Thử gửi một thứ từ trang này',
  refused: 'Trình duyệt đã từ chối ({refusal}).',
  notRefused: 'Đã gửi được: trình duyệt này không thực thi chính sách của trang. Đừng dựa vào đó.',
  loadFirst: 'Mô hình và chương trình chạy nó được tải một lần, {size}. Sau đó trang này không cần mạng.',
  loadNow: 'Tải ngay',
  loadingModel: 'Đang tải mô hình, {percent}',
  loaded: 'Mô hình đã ở trên thiết bị này. Trang này không cần mạng.',
  unkept: 'Trình duyệt này không còn chỗ để giữ mô hình. Lần sau sẽ phải tải lại.',
  useServer: 'Dùng máy chủ',
  timingDevice: 'Mất {words} trên thiết bị này (giải mã {decode} ms, mô hình {inference} ms, bản đồ nhiệt {heatmap} ms; tổng cộng {total} ms).',
  details: 'Chi tiết',
  photo: 'Ảnh',
  photoNamed: 'Ảnh {name}',
  photoWithHeat: 'Ảnh {name}, phủ bản đồ nhiệt của {class}',
  unshown: 'Trình duyệt này không hiển thị được tệp này.',
  cropNw: 'Góc trên bên trái của khung cắt: di chuyển bằng phím mũi tên',
  cropNe: 'Góc trên bên phải của khung cắt: di chuyển bằng phím mũi tên',
  cropSw: 'Góc dưới bên trái của khung cắt: di chuyển bằng phím mũi tên',
  cropSe: 'Góc dưới bên phải của khung cắt: di chuyển bằng phím mũi tên',
  cropSays: 'Khung cắt rộng {width}, cao {height} phần trăm của ảnh',
  progress: 'Tiến độ',
  cancel: 'Hủy',
  turnLeft: 'Xoay trái',
  turnRight: 'Xoay phải',
  whole: 'Toàn bộ ảnh',
  opacity: 'Bản đồ nhiệt phủ lên ảnh',
  compare: 'Trước và sau: phần không phủ',
  zoom: 'Phóng to',
  little: 'ít',
  much: 'nhiều',
  basisProbability: 'Màu đỏ ủng hộ “{class}” nhiều nhất, màu xanh ít nhất.',
  basisLogit: 'Màu đỏ ủng hộ “{class}” nhiều nhất, màu xanh ít nhất. Vì mô hình quá chắc chắn, hình này giải thích điểm số trước softmax.',
  ready: 'Sẵn sàng xem',
  facts: '{name} · {width} × {height} · {size}',
  factsUnshown: '{name} · {size}',
  cropHint: 'Kéo các góc để cắt ảnh: càng gần vùng da cần xem càng tốt.',
  model: 'Mô hình',
  shrink: 'Thu nhỏ từ {from} còn {to} điểm ảnh trước: nhanh hơn; mô hình có thể thấy hơi khác',
  token: 'Mã truy cập',
  look: 'Xem ảnh này',
  another: 'Ảnh khác',
  answer: 'Những gì mô hình thấy có khả năng nhất',
  answerMore: 'Chọn một nhóm để biết vùng nào trong ảnh ủng hộ nó.',
  answerSays: '{class}: {percent}. Danh sách có {count} nhóm.',
  unfamiliar: 'Mô hình không biết loại ảnh này',
  unfamiliarMore: 'Mô hình chỉ biết {basis}, và bức ảnh này không giống như vậy. Danh sách dưới đây chỉ là phỏng đoán về thứ mô hình chưa từng thấy: đừng dựa vào đó.',
  unsure: 'Mô hình không chắc chắn',
  unsureMore: 'Không nhóm nào đủ khả năng để nổi bật. Một bức ảnh nét hơn, gần hơn và chụp dưới ánh sáng ban ngày có thể giúp ích.',
  familiarMore: 'Mô hình biết loại ảnh này không có nghĩa là các nhóm nó đưa ra là đúng.',
  noHeatmap: 'Không có bản đồ nhiệt: {why}.',
  timing: 'Mất {words} trên máy chủ (giải mã {decode} ms, mô hình {inference} ms, bản đồ nhiệt {heatmap} ms; tổng cộng {total} ms).',
  moment: 'chưa đến một phần mười giây',
  download: 'Lưu hình',
  print: 'In báo cáo',
  report: '{name}, do mô hình “{title}” xem vào {date}.',
  visit: 'Các ảnh lần này',
  visitMore: 'Chỉ giữ trong thẻ này, đến khi bạn đóng thẻ hoặc xóa.',
  table: 'Lưu thành bảng',
  forget: 'Xóa tất cả',
  ofSeveral: 'Ảnh {at}/{count}.',
  curl: 'Sao chép lệnh curl',
  copied: 'Đã sao chép. Lệnh này gửi tệp gốc trên máy bạn, không cắt, không xoay.',
  sending: 'Đang gửi ảnh, {percent}',
  looking: 'Mô hình đang xem…',
  preparing: 'Đang chuẩn bị ảnh…',
  cancelled: 'Đã hủy. Ảnh vẫn còn đây.',
  shutter: 'Chụp',
  cameraTurn: 'Máy ảnh khác',
  footer: 'Phần mềm tự do, Apache-2.0.',
  api: 'Cách gọi từ chương trình khác (OpenAPI)',
};

// The title and advice for each type of problem.
const problemsEn = {
  photo: ['This is not a photo that can be read.', 'Choose a JPEG, PNG, WebP, BMP or GIF file.'],
  heic: ['This is a HEIC photo, which neither this browser nor the service can read.', 'Save or share it as JPEG first: on an iPhone, Settings, Camera, Formats, Most Compatible.'],
  avif: ['This is an AVIF photo, which neither this browser nor the service can read.', 'Save it as JPEG first, or open this page in a newer browser.'],
  unfamiliar: [`${english.unfamiliar}.`, 'So there is no answer: it would only be a guess. Choose a photo of the kind it was made for, which the details name.'],
  damaged: ['The photo is damaged or incomplete.', 'Try another copy of it, or take a new one.'],
  large: ['The photo is too large.', 'Let it be shrunk, or crop it.'],
  torn: ['The photo did not arrive in one piece.', 'Check the connection, and try again.'],
  busy: ['Many photos are being looked at just now.', 'Try again in {seconds} seconds.'],
  slow: ['It took too long.', 'Try again in a moment, with a smaller photo if you can.'],
  model: ['This model is not available.', 'Choose another model, or try again later.'],
  token: ['This service asks for an access token.', 'Enter the one you were given, and try again.'],
  fault: ['Something is wrong with the service, not with your photo.', 'Try again later, and tell whoever runs it.'],
  offline: ['The service cannot be reached.', 'Check the connection, and try again.'],
  camera: ['The camera cannot be used.', 'Allow it for this page in the browser, or choose a photo.'],
  unsupported: ['This browser cannot run the model.', 'Use a newer browser, over https.'],
  memory: ['This device has too little memory for the photo.', 'Let it be shrunk, or crop it.'],
  changed: ['The model arrived damaged or changed.', 'Nothing of it was kept. Load the page again, and try once more.'],
  notLoaded: ['The model could not be loaded.', 'Check the connection, and try again.'],
  deviceFault: ['The model failed on this device.', 'Load the page again, and tell whoever runs it if it happens again.'],
  other: ['That did not work.', 'The details say why.'],
};

const problemsVi = {
  photo: ['Tệp này không phải ảnh đọc được.', 'Hãy chọn tệp JPEG, PNG, WebP, BMP hoặc GIF.'],
  heic: ['Đây là ảnh HEIC, cả trình duyệt này lẫn dịch vụ đều không đọc được.', 'Hãy lưu hoặc chia sẻ dưới dạng JPEG trước: trên iPhone, vào Cài đặt, Camera, Định dạng, Tương thích nhất.'],
  avif: ['Đây là ảnh AVIF, cả trình duyệt này lẫn dịch vụ đều không đọc được.', 'Hãy lưu dưới dạng JPEG trước, hoặc mở trang này bằng trình duyệt mới hơn.'],
  unfamiliar: [`${vietnamese.unfamiliar}.`, 'Vì vậy không có câu trả lời: đó sẽ chỉ là phỏng đoán. Hãy chọn ảnh thuộc loại mà mô hình biết, được nêu trong phần chi tiết.'],
  damaged: ['Ảnh bị hỏng hoặc thiếu.', 'Hãy thử một bản khác, hoặc chụp lại.'],
  large: ['Ảnh quá lớn.', 'Hãy để ảnh được thu nhỏ, hoặc cắt bớt.'],
  torn: ['Ảnh không đến nơi trọn vẹn.', 'Hãy kiểm tra kết nối rồi thử lại.'],
  busy: ['Lúc này có nhiều ảnh đang được xem.', 'Hãy thử lại sau {seconds} giây.'],
  slow: ['Mất quá nhiều thời gian.', 'Hãy thử lại sau giây lát, với ảnh nhỏ hơn nếu được.'],
  model: ['Mô hình này hiện không dùng được.', 'Hãy chọn mô hình khác, hoặc thử lại sau.'],
  token: ['Dịch vụ này cần mã truy cập.', 'Hãy nhập mã bạn được cấp rồi thử lại.'],
  fault: ['Dịch vụ có lỗi, không phải do ảnh của bạn.', 'Hãy thử lại sau, và báo cho người vận hành.'],
  offline: ['Không kết nối được với dịch vụ.', 'Hãy kiểm tra kết nối rồi thử lại.'],
  camera: ['Không dùng được máy ảnh.', 'Hãy cho phép trang này dùng máy ảnh, hoặc chọn ảnh có sẵn.'],
  unsupported: ['Trình duyệt này không chạy được mô hình.', 'Hãy dùng trình duyệt mới hơn, qua https.'],
  memory: ['Thiết bị này không đủ bộ nhớ cho bức ảnh.', 'Hãy để ảnh được thu nhỏ, hoặc cắt bớt.'],
  changed: ['Mô hình nhận được bị hỏng hoặc đã thay đổi.', 'Không giữ lại phần nào. Hãy tải lại trang rồi thử lần nữa.'],
  notLoaded: ['Không tải được mô hình.', 'Hãy kiểm tra kết nối rồi thử lại.'],
  deviceFault: ['Mô hình gặp lỗi trên thiết bị này.', 'Hãy tải lại trang, và báo cho người vận hành nếu lỗi lặp lại.'],
  other: ['Không thực hiện được.', 'Phần chi tiết cho biết lý do.'],
};

// The classes of the origin app in Vietnamese, by label. A card has display names in one language.
const classesVi = {
  'Acne and Rosacea Photos': 'Mụn trứng cá và chứng đỏ mặt (rosacea)',
  'Eczema Photos': 'Chàm (eczema)',
  'Heathy': 'Da khỏe mạnh',
  'Psoriasis pictures Lichen Planus and related diseases': 'Vảy nến, lichen phẳng và các bệnh liên quan',
  'Scabies Lyme Disease and other Infestations and Bites': 'Ghẻ, bệnh Lyme, các bệnh do ký sinh trùng và vết cắn',
  'Seborrheic Keratoses and other Benign Tumors': 'Dày sừng tiết bã và các u lành tính khác',
  'Warts Molluscum and other Viral Infections': 'Mụn cóc, u mềm lây và các bệnh nhiễm virus khác',
};

const languages = {
  en: { words: english, problems: problemsEn, classes: {} },
  vi: { words: vietnamese, problems: problemsVi, classes: classesVi },
};

const KEPT = 'skincell-language';

/** The language: the one chosen before, else the browser's, else English. */
export let language = first();

function first() {
  const kept = read();
  if (kept in languages) return kept;
  return navigator.languages.some((name) => name.toLowerCase().startsWith('vi')) ? 'vi' : 'en';
}

// A browser may forbid storage; then the choice lasts until the page is closed.
function read() {
  try { return localStorage.getItem(KEPT); } catch { return null; }
}

/** Switches to the language `name` and stores the choice. */
export function speak(name) {
  language = name;
  try { localStorage.setItem(KEPT, name); } catch { /* see read */ }
}

/** The text `key`, with each {name} replaced by that member of `values`. */
export function say(key, values = {}) {
  return fill(languages[language].words[key], values);
}

/** Title and advice for a kind of problem. */
export function problemWords(kind, values) {
  return languages[language].problems[kind].map((text) => fill(text, values));
}

/** The display name of a class. `result` has the members `class` (or `label`) and perhaps `display`. */
export function className(result) {
  const label = result.class ?? result.label;
  return languages[language].classes[label] ?? result.display ?? label;
}

/** Formats a percentage, 0 to 100. */
export function percent(value, digits = 1) {
  const format = { style: 'percent', minimumFractionDigits: digits, maximumFractionDigits: digits };
  return new Intl.NumberFormat(language, format).format(value / 100);
}

/** Formats milliseconds. */
export function milliseconds(value) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: value < 10 ? 1 : 0 }).format(value);
}

/** A time in words for people who do not count in milliseconds. */
export function duration(value) {
  if (value < 100) return say('moment');
  const format = { style: 'unit', unit: 'second', unitDisplay: 'long', maximumFractionDigits: value < 10_000 ? 1 : 0 };
  return new Intl.NumberFormat(language, format).format(value / 1000);
}

/** A date and time. */
export function day(date) {
  return new Intl.DateTimeFormat(language, { dateStyle: 'long', timeStyle: 'short' }).format(date);
}

/** Formats a number of bytes. */
export function size(bytes) {
  const [value, unit] = bytes < 1e6 ? [bytes / 1e3, 'kilobyte'] : [bytes / 1e6, 'megabyte'];
  const format = { style: 'unit', unit, maximumFractionDigits: value < 10 ? 1 : 0 };
  return new Intl.NumberFormat(language, format).format(value);
}

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
