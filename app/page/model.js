/** What /meta tells about the model, for a person. */

const KINDS = {
  clip: "CLIP",
  siglip: "SigLIP",
  siglip2: "SigLIP 2",
  metaclip_2: "MetaCLIP 2",
  modernvbert: "ModernVBERT",
  colmodernvbert: "ModernVBERT",
};

// The names by which people know the sizes of vision transformers, by the width of their layers.
const SIZES = { 192: "Ti", 384: "S", 768: "B", 1024: "L", 1152: "So400m", 1280: "H", 1408: "g", 1664: "bigG" };

/**
 * The model's name, and the size to which it brings pictures.
 * @param {object} meta a pair {clip_model, text_model} of configurations, or one configuration
 */
export function describe(meta) {
  const pictures = meta.clip_model ?? meta;
  const texts = meta.text_model ?? pictures;
  const vision = pictures.vision_config ?? pictures.vision_cfg ?? pictures.model_config?.vision_cfg ?? {};
  const names = new Set([nameOf(pictures), nameOf(texts)]);
  return {
    name: [...names].join(", texts by "),
    pixels: vision.image_size ? `${vision.image_size} × ${vision.image_size} pixels` : "",
  };
}

function nameOf(config) {
  const given = config.model_name ?? config._name_or_path ?? config.name_or_path;
  // A path of the machine on which it was saved says nothing.
  if (given && !given.startsWith("/")) return config.pretrained ? `${given}, ${config.pretrained}` : given;
  const kind = KINDS[config.model_type] ?? config.architectures?.[0] ?? config.model_type ?? "unnamed";
  const { hidden_size: width, patch_size: patch } = config.vision_config ?? {};
  return SIZES[width] && patch ? `${kind} ViT-${SIZES[width]}/${patch}` : kind;
}
